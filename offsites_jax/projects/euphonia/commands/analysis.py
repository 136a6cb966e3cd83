"""Command that says who is understood, and who is not."""

from tyro.conf import Positional

from offsites_jax.errors import UserError


def analyze(
    manifest: Positional[str],
    split: str,
    speakers: str,
    output: str,
    hypotheses: tuple[str, ...],
    transcripts: str = "",
    data_size: str = "",
    per_speaker: bool = False,
    title: str = "Who is understood",
) -> None:
    """Word error rates by severity, domain and etiology, beside people's, and what goes with high ones.

    Nothing it writes tells of fewer than six speakers, unless --per-speaker asks for a table to keep private.

    Args:
      manifest: of all utterances.
      split: split.json of them.
      speakers: speakers.csv: severity, etiology and ratings.
      output: folder of report.html, report.json, tables and pictures.
      hypotheses: NAME=hyp.jsonl for each recogniser, base=... and personal=... among them.
      transcripts: sheet of what people heard: speaker, utt, transcriber, text.
      data_size: table of a study of data size: speaker, utterances, wer.
      per_speaker: also write a table of single speakers.
      title: of the page.

    """
    from offsites_jax.projects.euphonia.analysis.page import analyze as write

    named = dict(_pair(one) for one in hypotheses)
    found = write(
        manifest,
        split,
        speakers,
        named,
        output,
        transcripts=transcripts or None,
        data_size=data_size or None,
        title=title,
        per_speaker=per_speaker,
    )
    for note in found.notes:
        print(f"note: {note}")
    print(found.files.get("report.html", output))


def _pair(text: str) -> tuple[str, str]:
    name, found, file = text.partition("=")
    if not found or not name or not file:
        raise UserError(f"--hypotheses: {text!r} is not NAME=FILE")
    return name, file
