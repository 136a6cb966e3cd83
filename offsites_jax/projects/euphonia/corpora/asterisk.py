"""Asterisk's core sounds: telephone prompts, one professional voice for each of five languages.

The Debian packages, unpacked side by side with `dpkg -x`, as `offsites_jax.data.audio.asterisk` reads them.
Half an hour of one voice proves that a system works on real recordings; it says nothing about how well.
"""

import os
from typing import Literal

from offsites_jax.data.audio.asterisk import read_asterisk as read_prompts
from offsites_jax.data.audio.utterance import Utterance as Prompt
from offsites_jax.projects.euphonia.corpora.corpus import Corpus, Dropped, existing_folder, typical
from offsites_jax.projects.euphonia.manifest import Utterance


def read_asterisk(
    root: str | os.PathLike[str], language: str = "en", encoding: Literal["g722", "wav"] = "g722"
) -> Corpus:
    """The prompts of one language. `prompt_id` is the same for one prompt in all languages.

    Args:
      root: folder that the packages were unpacked in; "/" where they are installed.
      language: en, es, fr, it or ru.
      encoding: "g722" at 16 kHz, or "wav" at 8 kHz: the upper half of what a recogniser at 16 kHz hears is
        empty then.

    Raises:
      UserError: an unknown language, or a package that is not there.
      DamagedDataError: transcripts that cannot be read.

    """
    found = read_prompts(existing_folder(root), language, encoding)
    utterances = tuple(_utterance(prompt) for prompt in found.utterances)
    dropped = tuple(Dropped(_name(language, key), reason) for key, reason in found.left_out)
    return Corpus(utterances, typical(one.speaker for one in utterances), dropped)


def _utterance(prompt: Prompt) -> Utterance:
    return Utterance(
        utt_id=_name(prompt.language, prompt.key),
        speaker=prompt.speaker,
        audio=prompt.path,
        text=prompt.text,
        prompt_id=prompt.key,
        source="asterisk",
        extra={"language": prompt.language},
    )


def _name(language: str, key: str) -> str:
    """Names of utterances become names of files: `digits/1` is no folder."""
    return f"{language}_{key.replace('/', '_')}"
