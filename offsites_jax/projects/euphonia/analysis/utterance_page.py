"""One utterance explained, as files: `report.html`, `report.json` and `utterance.png`.

They hold what one person said, since that is what was asked for: nothing here is anonymous.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int16

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.audio.frontend import log_mel, stack_frames
from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import ErrorCounts, count_errors
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis.alignment import Alignment, Pair, align, compare
from offsites_jax.projects.euphonia.analysis.utterance_figure import utterance_figure
from offsites_jax.projects.euphonia.decoding.listener import Listener
from offsites_jax.projects.euphonia.decoding.stream import recognise
from offsites_jax.projects.euphonia.decoding.words import Word, words_of
from offsites_jax.train.media import encode_figure, encode_json
from offsites_jax.train.page import Paragraph, Picture, Section, Table, render

BANNER = "Holds the speech of one person: not for sharing."
_CAPTION = (
    "Above: the words that were said and those that were heard, where the recogniser emits them; right ones "
    "in green. Below the sound: the alignment. Shades say how many labels of what was said lie behind at a "
    "time, over all ways to say it; dots, where a label is emitted, the larger the surer. One clear stair is "
    "a text that the recogniser follows; a blur is where it loses it; labels on top of one another before "
    "their sound are guessed, not heard."
)


class Explained(NamedTuple):
    """What was said and what was heard.

    Attributes:
      alignment: of what was said.
      heard: words of the hypothesis.
      heard_log_prob: natural logarithm of its probability, over all alignments.
      pairs: words of both, side by side.
      errors: of the hypothesis.

    """

    alignment: Alignment
    heard: tuple[Word, ...]
    heard_log_prob: float
    pairs: tuple[Pair, ...]
    errors: ErrorCounts


def explain(listener: Listener, samples: Int16[np.ndarray, "samples"], text: str) -> Explained:
    """Recognises a recording, and aligns what was said in it.

    Args:
      listener: the recogniser.
      samples: of the recording, at the rate of the model.
      text: what was said, as people write it.

    Raises:
      UserError: nothing is left of the text when normalised, or the recogniser has no labels for it.
      DamagedDataError: a recording of less than one frame.

    """
    said = normalise(text)
    if not said:
        raise UserError("--text: nothing is left of it without punctuation; give the words that were said")
    rows = stack_frames(log_mel(samples, listener.features), listener.features)
    alignment = align(listener, rows, listener.tokenizer.encode(said))
    found = recognise(listener, samples)
    heard = words_of(found.labels, found.frames, listener.spellings, listener.frame_seconds)
    texts = [word.text for word in alignment.words], [word.text for word in heard]
    return Explained(
        alignment,
        heard,
        align(listener, rows, found.labels).log_prob,
        compare(*texts),
        count_errors([" ".join(texts[0])], [" ".join(texts[1])]),
    )


def write_explained(
    output: str | os.PathLike[str],
    found: Explained,
    listener: Listener,
    samples: Int16[np.ndarray, "samples"],
    *,
    name: str,
    recogniser: str,
) -> epath.Path:
    """Writes page, table and picture, and returns the page.

    Args:
      output: folder of the files; made where missing.
      found: from `explain`.
      listener: that it is of.
      samples: likewise.
      name: of the recording.
      recogniser: whose it was, in words.

    """
    folder = epath.Path(output)
    features = listener.features
    figure = utterance_figure(
        samples,
        log_mel(samples, features),
        features,
        found.alignment,
        found.heard,
        found.pairs,
        listener.spellings,
        listener.frame_seconds,
    )
    png = encode_figure(figure).content
    rows = word_rows(found)
    sections = [
        Section("Said and heard", [Paragraph(summary(found, recogniser)), Table(rows)]),
        Section("Where in the sound", [Picture(png, _CAPTION)]),
    ]
    page = folder / "report.html"
    write_atomically(folder / "utterance.png", png)
    write_atomically(folder / "report.json", encode_json(as_json(found, name, recogniser)).content)
    write_atomically(page, render(f"Recording {name}", sections, BANNER).encode())
    return page


def summary(found: Explained, recogniser: str) -> str:
    """The outcome in a few lines."""
    errors = found.errors
    wrong = f"{errors.substitutions} taken for others, {errors.deletions} missed, {errors.insertions} added"
    return (
        f"Said: {_text(found.alignment.words)}\n"
        f"Heard by {recogniser}: {_text(found.heard) or 'nothing'}\n"
        f"Word error rate {errors.rate:.1%}: of {errors.reference} words, {wrong}.\n{_belief(found)}"
    )


def word_rows(found: Explained) -> list[dict[str, Any]]:
    """A row for each pair of words, with seconds."""
    said, heard = found.alignment.words, found.heard
    rows = []
    for pair in found.pairs:
        ours = said[pair.said] if pair.said is not None else None
        theirs = heard[pair.heard] if pair.heard is not None else None
        rows.append(
            {
                "said": ours.text if ours else None,
                "heard": theirs.text if theirs else None,
                "verdict": _verdict(ours, theirs),
                "said from (s)": ours.start if ours else None,
                "to (s)": ours.end if ours else None,
                "heard from (s)": theirs.start if theirs else None,
            }
        )
    return rows


def as_json(found: Explained, name: str, recogniser: str) -> dict[str, Any]:
    """All of it but the picture."""
    return {
        "utt": name,
        "recogniser": recogniser,
        "wer": found.errors.rate,
        "said": {"text": _text(found.alignment.words), "logp": found.alignment.log_prob},
        "heard": {"text": _text(found.heard), "logp": found.heard_log_prob},
        "words": word_rows(found),
    }


def _verdict(said: Word | None, heard: Word | None) -> str:
    if said is None:
        return "added"
    if heard is None:
        return "missed"
    return "right" if said.text == heard.text else "another word"


def _belief(found: Explained) -> str:
    """Which of both texts the network holds for more probable: whether the search is to blame."""
    if not found.errors.errors:
        return f"It held that for probable by {math.exp(found.alignment.log_prob):.3g}."
    distance = found.heard_log_prob - found.alignment.log_prob
    if distance < 0:
        return (
            "It holds what was said for more probable than what it wrote down, and did not find it: "
            "a wider beam, such as --beam 8, may."
        )
    return f"It holds what it heard for more probable than what was said, by {distance:.1f} nats."


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
