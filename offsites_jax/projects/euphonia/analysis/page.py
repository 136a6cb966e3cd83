"""An analysis as files: `report.html`, `report.json`, tables as CSV and pictures as PNG."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.delimited import read_text
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis import figures
from offsites_jax.projects.euphonia.analysis.anonymity import LEAST, shown
from offsites_jax.projects.euphonia.analysis.data_size import read_sizes
from offsites_jax.projects.euphonia.analysis.humans import read_transcripts
from offsites_jax.projects.euphonia.analysis.quality import quality_figure, quality_rows
from offsites_jax.projects.euphonia.analysis.study import Options, Study, make_study
from offsites_jax.projects.euphonia.analysis.tables import report_json, speaker_rows, tables
from offsites_jax.projects.euphonia.manifest import read_manifest
from offsites_jax.projects.euphonia.speakers import SHIPPED, read_scale, read_speakers
from offsites_jax.projects.euphonia.splits import read_split
from offsites_jax.train.media import encode_figure, encode_json, encode_table
from offsites_jax.train.page import Paragraph, Part, Picture, Section, Table, cell_text, render

PRIVATE = "speakers_not_for_sharing.csv"

_CAPTIONS = {
    "severity_etiology": "Speakers by severity and etiology. Hidden cells hold fewer than six, or would tell "
    "of them.",
    "severity": "Word error rates by severity. Boxes hold the middle half of the speakers, whiskers reach "
    "from the 10th to the 90th percentile, the line is the median.",
    "effects": "What is different about speakers who are recognised badly. High: the fifth with the highest "
    "error rates; SurpHigh: those of them whose speech is mild; Low: the fifth with the lowest.",
    "human": "Word error rate of the personal recogniser minus that of people, by severity. Below zero the "
    "recogniser understands more.",
    "snr": "Word error rate over signal-to-noise ratio. Each dot is the median of six neighbouring speakers "
    "or more.",
    "data_size": "Word error rate, and share of speakers at the target, over the number of training "
    "utterances.",
    "quality": "Measures of the recordings. Bins of fewer than six speakers are left empty.",
}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `analyze` did.

    Attributes:
      files: that it wrote, by name.
      notes: what the person who asked has to know; they may name speakers, the report does not.

    """

    files: Mapping[str, epath.Path]
    notes: tuple[str, ...]


def analyze(
    manifest: str | os.PathLike[str],
    split: str | os.PathLike[str],
    speakers: str | os.PathLike[str],
    hypotheses: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    options: Options = Options(),
    transcripts: str | os.PathLike[str] | None = None,
    data_size: str | os.PathLike[str] | None = None,
    ratings: str | os.PathLike[str] = SHIPPED,
    title: str = "Who is understood",
    per_speaker: bool = False,
) -> Analysis:
    """Reads a cohort's files and writes a report. No table or picture tells of fewer than six speakers.

    Args:
      manifest: of all utterances; recordings need not be there.
      split: `split.json` of them.
      speakers: `speakers.csv`.
      hypotheses: `hyp.jsonl` of each recogniser by its name: a line `{"utt": ..., "text": ...}` for each
        utterance.
      output: folder of the files; made where missing.
      options: how the study is made, with the names of the base and of the personal recogniser.
      transcripts: sheet of what people heard, `speaker, utt, transcriber, text`.
      data_size: table of a study of data size, `speaker, utterances, wer`.
      ratings: YAML file of the rating scale.
      title: of the page.
      per_speaker: also write a table of single speakers, which is not for sharing.

    Raises:
      UserError: a file that is missing or wrong, with row and field; a split that leaks; a speaker without
        description; a test utterance without hypothesis.

    """
    scale = read_scale(ratings)
    study = make_study(
        read_manifest(manifest, check_audio=False),
        read_split(split),
        read_speakers(speakers, scale),
        {system: read_hypotheses(file) for system, file in hypotheses.items()},
        options,
        read_transcripts(transcripts) if transcripts is not None else (),
        read_sizes(data_size) if data_size is not None else (),
        scale,
    )
    paths = write_study(study, output, title, per_speaker)
    missing = study.human.missing if study.human is not None else ()
    return Analysis(paths, (*study.notes, *missing))


def read_hypotheses(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a recogniser made of each utterance, by name, from a file of JSON lines.

    Raises:
      UserError: no such file, a line that is not `{"utt": ..., "text": ...}`, or an utterance twice.

    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["utt"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = text = None
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(f'{path}: row {number}: not {{"utt": ..., "text": ...}}; correct it')
        if name in found:
            raise UserError(f"{path}: row {number}: utt: {name} has an earlier row; keep one")
        found[name] = text
    return found


def write_study(
    study: Study, folder: str | os.PathLike[str], title: str = "Who is understood", per_speaker: bool = False
) -> dict[str, epath.Path]:
    """Writes everything about a study; each file appears whole or not at all.

    Returns:
      The files by name.

    """
    pictures = {name: encode_figure(drawn).content for name, drawn in draw(study).items()}
    rows = {**tables(study), "quality": quality_rows(study.utterances.values())}
    files = {f"{name}.png": content for name, content in pictures.items()}
    files |= {f"{name}.csv": encode_table(found).content for name, found in rows.items() if found}
    files["report.json"] = encode_json(report_json(study)).content
    files["report.html"] = report_html(study, title, pictures).encode()
    if per_speaker:
        files[PRIVATE] = encode_table(speaker_rows(study)).content
    paths = {name: epath.Path(folder) / name for name in files}
    for name, content in files.items():
        write_atomically(paths[name], content)
    return paths


def draw(study: Study) -> dict[str, Any]:
    """The pictures that there are enough speakers for."""
    drawn = {
        "severity_etiology": figures.distribution_figure(study),
        "severity": figures.box_figure(study),
        "effects": figures.effect_figure(study),
        "human": figures.human_figure(study),
        "snr": figures.snr_figure(study),
        "data_size": figures.learning_figure(study),
        "quality": quality_figure(study.utterances.values()),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def report_html(study: Study, title: str, pictures: Mapping[str, bytes]) -> str:
    """The page, with the pictures inside."""
    rows = {**tables(study), "quality": quality_rows(study.utterances.values())}
    part = study.options.break_down
    wanted = [
        ("All speakers", ["cohort"], [], _headline(study)),
        ("Speakers", ["severity_etiology"], ["severity_etiology"], ()),
        ("By severity", ["severity"], ["severity"], ()),
        (f"By {part.replace('_', ' ')}", [part, f"severity_{part}"], [], ()),
        ("By etiology", ["etiology"], [], ()),
        ("Who is understood badly", ["effects"], ["effects", "snr"], ()),
        ("Beside people", ["human"], ["human"], _beside_people(study)),
        ("How much to record", ["data_size"], ["data_size"], ()),
        ("Recordings", ["quality"], ["quality"], ()),
    ]
    sections = []
    for heading, table_names, picture_names, texts in wanted:
        parts: list[Part] = [Paragraph(text) for text in texts]
        parts += [Picture(pictures[name], _CAPTIONS[name]) for name in picture_names if name in pictures]
        parts += [Table(rows[name]) for name in table_names if rows.get(name)]
        if parts:
            sections.append(Section(heading, parts))
    return render(title, sections)


def _headline(study: Study) -> Sequence[str]:
    texts = [
        f"Every figure is of {LEAST} speakers or more; smaller groups are merged into OTHER. Medians are "
        "over speakers, each of whom counts once. Errors are counted in normalised text."
    ]
    improvement = study.improvement
    if len(study.speakers) < LEAST:
        texts.append("There are too few speakers to show figures of.")
    elif improvement is not None and len(improvement.by_speaker) >= LEAST:
        texts.append(
            f"Median relative improvement of {study.options.personal} over {study.options.base}: "
            f"{cell_text(100 * improvement.median)} %.{_excluded(len(improvement.excluded))}"
        )
    return [*texts, *study.notes]


def _excluded(count: int) -> str:
    """How many speakers cannot improve, as far as that may be told."""
    if not count:
        return ""
    told = shown(count)
    return f" {'A few' if told is None else told} whom the base understood without error are left out of it."


def _beside_people(study: Study) -> Sequence[str]:
    human = study.human
    if human is None or len(human.speakers) < LEAST:
        return ()
    test = "" if human.p_value is None else f" (Wilcoxon signed-rank p {cell_text(human.p_value)})"
    texts = [
        f"Median over {len(human.speakers)} speakers of the recogniser's word error rate minus that of "
        f"people: {cell_text(100 * human.median_delta)} points{test}."
    ]
    return [*texts, *(["Some transcripts are missing."] if human.missing else [])]
