"""A bundle on image files: scores.csv, heat maps and a report."""

import collections
import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float, Int

from offsites_jax.data.pipeline import Pipeline
from offsites_jax.data.source import describe
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.data import create_input_pipeline
from offsites_jax.projects.one_class.localization.dense import HeatMaps, Images
from offsites_jax.projects.one_class.measures.embedding import Embedding, embed
from offsites_jax.projects.one_class.readers.folder import SUFFIXES
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, GOOD, NORMAL, UNKNOWN
from offsites_jax.projects.one_class.report import score_report
from offsites_jax.projects.one_class.report.heat_pictures import PanelColumn
from offsites_jax.projects.one_class.report.score_report import ScoredImages
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.second_stage.features import of_images
from offsites_jax.projects.one_class.stored import write_file

SCORES = "scores.csv"
COLUMNS = ("path", "score", "flag", "threshold")

_THREADS = 8
_AT_ONCE = 8  # images whose heat maps are made together
_LEAST_EMBEDDED = 10  # images of which a t-SNE picture says anything
_PANELS = 8


@dataclasses.dataclass(frozen=True)
class Found:
    """A file that was found.

    Attributes:
      path: as it can be opened.
      name: below the folder it was found in, with its ending, or its path, only where two would be the same.
      label: 0 in a folder `good` whose neighbours hold other kinds, 1 in those, -1 unknown.

    """

    path: str
    name: str
    label: int


@dataclasses.dataclass(frozen=True)
class ReadFiles:
    """Files as images.

    Attributes:
      files: that could be read.
      images: of each, at the size of the model.
      bad: why each other could not be, by path.

    """

    files: tuple[Found, ...]
    images: Images
    bad: dict[str, str]


def find_files(paths: Sequence[str]) -> tuple[Found, ...]:
    """The files that paths name; a folder stands for all images in it and below it.

    Raises:
      UserError: a path that does not exist, or no images at all.

    """
    found = [pair for path in paths for pair in _below(epath.Path(path))]
    if not found:
        raise UserError(
            f"{', '.join(paths) or 'IMAGES'}: no images ({', '.join(SUFFIXES)}); name files or a folder"
        )
    tops = {name.partition("/")[0] for _, name in found if "/" in name}
    return tuple(
        Found(str(path), short, _label(name, tops))
        for (path, name), short in zip(found, _short_names(found), strict=True)
    )


def read_files(bundle: Bundle, files: Sequence[Found], *, skip_bad: bool) -> ReadFiles:
    """All files, before anything is scored.

    Raises:
      DamagedDataError: one cannot be read and `skip_bad` is off, or none can be.

    """
    pipeline = create_input_pipeline(bundle.model.experiment, [file.path for file in files])
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="read-images") as pool:
        examples = list(pool.map(lambda index: _image_or_reason(pipeline, index), range(len(files))))
    bad = {
        file.path: example for file, example in zip(files, examples, strict=True) if isinstance(example, str)
    }
    if bad and (not skip_bad or len(bad) == len(files)):
        path, reason = next(iter(bad.items()))
        advice = "none is left" if skip_bad else "repair or remove it, or leave it out with --skip-bad"
        raise DamagedDataError(f"{path}: {reason}; {len(bad)} of {len(files)} files are bad: {advice}")
    good = [(file, one) for file, one in zip(files, examples, strict=True) if not isinstance(one, str)]
    return ReadFiles(tuple(file for file, _ in good), np.stack([one for _, one in good]), bad)


def score_files(bundle: Bundle, read: ReadFiles, output: epath.PathLike, *, source: str = "images") -> int:
    """Writes `scores.csv`, `heatmaps/` and `report.html`, and returns how many images were flagged.

    Args:
      bundle: the scorer.
      read: the images.
      output: folder, made if it is not there.
      source: where the images are from, for messages.

    Raises:
      UserError: a file cannot be written, or a score is not finite.

    """
    folder = epath.Path(output)
    scores, heat = _scores_and_heat(bundle, read.images)
    labels = np.array([file.label for file in read.files], np.int32)
    scored = ScoredImages(
        names=[file.name for file in read.files],
        scores=scores,
        image=lambda index: read.images[index],
        labels=labels if (labels != UNKNOWN).any() else None,
        threshold=bundle.threshold,
        heat=list(heat),
    )
    write_file(folder / SCORES, _csv(bundle, read, scores))
    score_report.write(
        folder,
        scored,
        source=source,
        facts=[_facts(bundle)],
        remarks=_remarks(bundle, read),
        panels=_panels(bundle, read.images, scores, heat),
        embedding=_embedding(bundle, read.images, scores, labels),
    )
    return int(bundle.threshold.flags(scores).sum())


def _below(path: epath.Path) -> list[tuple[epath.Path, str]]:
    """Files with their names below the path, in order of bytes."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if not path.is_dir():
        return [(path, path.name)]
    found = []
    for child in sorted(path.iterdir(), key=lambda child: os.fsencode(child.name)):
        if child.name.startswith("."):
            continue
        if child.is_dir():
            found += [(file, f"{child.name}/{name}") for file, name in _below(child)]
        elif child.name.lower().endswith(SUFFIXES):
            found.append((child, child.name))
        else:
            logging.warning("%s: not an image by its name; left out", child)
    return found


def _short_names(found: Sequence[tuple[epath.Path, str]]) -> list[str]:
    """For each file the shortest of its stem, its name and its path that no other file has."""
    choices = [(os.path.splitext(name)[0], name, str(path)) for path, name in found]
    uses = [collections.Counter(column) for column in zip(*choices, strict=True)]
    return [
        next((text for text, used in zip(each, uses, strict=True) if used[text] == 1), each[-1])
        for each in choices
    ]


def _label(name: str, tops: set[str]) -> int:
    if GOOD not in tops or "/" not in name:
        return UNKNOWN
    return NORMAL if name.startswith(f"{GOOD}/") else ANOMALOUS


def _image_or_reason(pipeline: Pipeline, index: int) -> np.ndarray | str:
    try:
        return pipeline.transform(pipeline.source[index], None)["image"]
    except (DamagedDataError, UserError) as error:
        return str(error).removeprefix(f"{describe(pipeline.source, index)}: ")
    except OSError as error:
        return error.strerror or str(error)


def _scores_and_heat(bundle: Bundle, images: Images) -> tuple[Float[np.ndarray, "count"], HeatMaps]:
    parts = [
        bundle.score_and_heat(images[start : start + _AT_ONCE]) for start in range(0, len(images), _AT_ONCE)
    ]
    scores, heat = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(heat)


def _csv(bundle: Bundle, read: ReadFiles, scores: Float[np.ndarray, "count"]) -> bytes:
    """A row an image, and if some were left out, a last line that says so."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    flags = bundle.threshold.flags(scores)
    for file, score, flag in zip(read.files, scores, flags, strict=True):
        writer.writerow((file.path, repr(float(score)), int(flag), repr(bundle.threshold.value)))
    if read.bad:
        writer.writerow((f"# left out: {_left_out(read)}", "", "", ""))
    return stream.getvalue().encode()


def _left_out(read: ReadFiles) -> str:
    total = len(read.files) + len(read.bad)
    return f"{len(read.bad)} of {total} files could not be read: {'; '.join(read.bad)}"


def _facts(bundle: Bundle) -> dict[str, str | int]:
    reads = f"windows of {bundle.windows.size} pixels" if bundle.windows else f"{bundle.layer} of the image"
    return {
        "scorer": bundle.scorer.about,
        "reads": reads,
        "network": bundle.model.experiment.model.name,
        "pretext": bundle.model.experiment.task.pretext.name,
        "pixels": bundle.image_size,
        "training steps": bundle.model.step,
    }


def _remarks(bundle: Bundle, read: ReadFiles) -> list[str]:
    reasons = [f"{path}: {reason}" for path, reason in read.bad.items()]
    left_out = ["\n".join([f"Left out: {_left_out(read)}.", *reasons])] if read.bad else []
    return [*left_out, *([bundle.note] if bundle.note else [])]


def _panels(
    bundle: Bundle, images: Images, scores: Float[np.ndarray, "count"], heat: HeatMaps
) -> list[PanelColumn]:
    """The most anomalous images from both sides: GradCAM of the whole image, scores of its windows."""
    if bundle.windows is None:
        return []  # the heat map is GradCAM itself
    chosen: Int[np.ndarray, chosen] = np.argsort(-scores, kind="stable")[:_PANELS]
    cams = bundle.cam(images[chosen])
    return [
        PanelColumn(images[index], cam=cam, heat=heat[index]) for index, cam in zip(chosen, cams, strict=True)
    ]


def _embedding(
    bundle: Bundle, images: Images, scores: Float[np.ndarray, "count"], labels: Int[np.ndarray, "count"]
) -> Embedding | None:
    if len(images) < _LEAST_EMBEDDED:
        return None
    features = of_images(bundle.model, images)
    flags = bundle.threshold.flags(scores)
    groups = {"normal": labels == NORMAL, "anomaly": labels == ANOMALOUS}
    if (labels == UNKNOWN).all():
        groups = {"not flagged": ~flags, "flagged": flags}
    return embed({name: features[rows] for name, rows in groups.items() if rows.any()})
