"""The report of a scored folder: `report.html`, and beside it the heat maps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.embedding import Embedding, embedding_figure
from offsites_jax.projects.one_class.measures.scores import ImageFigures, Threshold, image_figures
from offsites_jax.projects.one_class.readers.records import UNKNOWN
from offsites_jax.projects.one_class.report.heat_pictures import (
    Heat,
    PanelColumn,
    Range,
    contact_sheet,
    panel_figure,
    write_heat_maps,
)
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.train.media import encode_figure, encode_image
from offsites_jax.train.overlay import Picture, overlay
from offsites_jax.train.page import Paragraph, Part, Section, Table, render
from offsites_jax.train.page import Picture as Shown

REPORT = "report.html"
EXTREMES = 24
"""Images shown from either end of the ranking."""

_BINS = 40
_LONG_TAIL = 10
_PANEL_COLUMNS = 8
_GROUPS = {0: ("normal", "tab:blue"), 1: ("anomaly", "tab:red"), UNKNOWN: ("not labelled", "tab:gray")}


@dataclasses.dataclass(frozen=True)
class ScoredImages:
    """What a run scored.

    Attributes:
      names: of the images, such as their paths.
      scores: larger is more anomalous.
      image: pixels by number: uint8 RGB, all of one size.
      labels: 0 normal, 1 anomaly, -1 not known; None where none is known.
      threshold: above which an image is flagged.
      heat: a heat map for each image, of its size; None without localisation.

    """

    names: Sequence[str]
    scores: Float[np.ndarray, "count"]
    image: Callable[[int], Picture]
    labels: Int[np.ndarray, "count"] | None = None
    threshold: Threshold | None = None
    heat: Sequence[Heat] | None = None

    def __post_init__(self) -> None:
        parts = {"scores": self.scores, "labels": self.labels, "heat maps": self.heat}
        for name, part in parts.items():
            if part is not None and len(part) != len(self.names):
                raise UserError(f"{len(part)} {name} for {len(self.names)} images; give each image one")
        if not len(self.names):
            raise UserError("no images were scored; give a folder that holds some")

    @functools.cached_property
    def known_labels(self) -> Int[np.ndarray, "count"]:
        """The labels, -1 for all where there are none."""
        return np.full(len(self.names), UNKNOWN) if self.labels is None else np.asarray(self.labels)

    @functools.cached_property
    def known(self) -> Int[np.ndarray, "known"]:
        """Numbers of the images whose label is known."""
        return np.flatnonzero(self.known_labels != UNKNOWN)


def write(
    folder: epath.PathLike,
    scored: ScoredImages,
    *,
    title: str = "Anomaly scores",
    source: str = "the scored images",
    facts: Sequence[Mapping[str, Any]] = (),
    remarks: Sequence[str] = (),
    panels: Sequence[PanelColumn] = (),
    embedding: Embedding | None = None,
) -> epath.Path:
    """Writes `folder/report.html` and, where there are heat maps, `folder/heatmaps/`.

    Args:
      folder: to write to; made if it is not there.
      scored: the images.
      title: of the page.
      source: the file or folder the images are from, for messages.
      facts: rows of a table at the top, such as what the model and the scorer are.
      remarks: what the reader must know first, such as which files were skipped.
      panels: images to show from all sides: ground truth, GradCAM, patch heat map.
      embedding: a t-SNE picture of features.

    Returns:
      The path of the page.

    Raises:
      UserError: scores that are not finite, two images that would share a heat map, or a folder that cannot
        be written to.

    """
    file = epath.Path(folder) / REPORT
    figures = _figures(scored, source)
    colours = None
    if scored.heat is not None:
        colours = write_heat_maps(folder, scored.names, scored.image, scored.heat)
    sections = [
        Section("Summary", [*map(Paragraph, remarks), *_tables(scored, figures, facts)]),
        Section("Scores", _distribution(scored, figures)),
        *_panels(panels, colours),
        *_extremes(scored, colours),
        *_embedding(embedding),
    ]
    write_file(file, render(title, sections).encode())
    return file


def histogram_figure(scored: ScoredImages) -> Figure:
    """How many images have which score: normal, anomalous and unlabelled ones, and the threshold.

    The scores are on a logarithmic axis where the largest is many times the median.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    scores = np.asarray(scored.scores, np.float64)
    if scores.min() > 0 and scores.max() > _LONG_TAIL * np.median(scores):
        bins = np.geomspace(scores.min(), scores.max(), _BINS + 1).tolist()
        axes.set_xscale("log")
    else:
        bins = np.histogram_bin_edges(scores, _BINS).tolist()
    for label, (name, colour) in _GROUPS.items():
        group = scores[scored.known_labels == label]
        if len(group):
            axes.hist(group, bins, alpha=0.6, label=f"{name} ({len(group)})", color=colour)
    if scored.threshold is not None:
        value = scored.threshold.value
        axes.axvline(value, color="black", linestyle="--", label=f"threshold {value:.4g}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="score", ylabel="images")
    axes.legend()
    return figure


def roc_figure(scored: ScoredImages, auc: float) -> Figure:
    """Anomalies found over false alarms, at every threshold; a dot where the threshold of the run lies.

    Args:
      scored: of both kinds; unlabelled images do not count.
      auc: area under the curve in percent.

    """
    from sklearn import metrics

    labels, scores = scored.known_labels[scored.known], np.asarray(scored.scores)[scored.known]
    alarms, recall, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * alarms, 100 * recall, label=f"AUC {auc:.2f} %")
    axes.plot([0, 100], [0, 100], color="grey", linewidth=0.8, linestyle=":")
    if scored.threshold is not None:
        flags = scored.threshold.flags(scores)
        place = 100 * flags[labels == 0].mean(), 100 * flags[labels == 1].mean()
        axes.plot(*place, "ko", label=f"threshold {scored.threshold.value:.4g}", clip_on=False)
    axes.set(xlabel="false alarms, % of normal images", ylabel="found, % of anomalies")
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    return figure


def _figures(scored: ScoredImages, source: str) -> ImageFigures | None:
    """Figures over the images whose label is known; None if there are none."""
    if not np.isfinite(scored.scores).all():
        row = int(np.flatnonzero(~np.isfinite(scored.scores))[0])
        raise UserError(f"{scored.names[row]}: its score is not finite; check that image")
    if not len(scored.known):
        return None
    return image_figures(np.asarray(scored.scores)[scored.known], scored.known_labels[scored.known], source)


def _tables(
    scored: ScoredImages, figures: ImageFigures | None, facts: Sequence[Mapping[str, Any]]
) -> list[Part]:
    counts: dict[str, Any] = {"images": len(scored.names)}
    if scored.threshold is not None:
        threshold = scored.threshold
        counts["flagged"] = int(threshold.flags(scored.scores).sum())
        counts["threshold"] = threshold.value
        counts["set at"] = f"{100 * threshold.quantile:g} % of {threshold.samples} held-out normal images"
    tables: list[Part] = [Table(facts)] if facts else []
    tables.append(Table([counts]))
    if figures is not None:
        tables.append(Table([figures.row()]))
    return tables


def _distribution(scored: ScoredImages, figures: ImageFigures | None) -> list[Part]:
    caption = "Scores of all images; larger is more anomalous."
    parts: list[Part] = [Shown(encode_figure(histogram_figure(scored)).content, caption)]
    if figures is None:
        return parts
    if figures.auc is None:
        return [*parts, Paragraph(f"ROC {figures.undefined}.")]
    unlabelled = len(scored.names) - len(scored.known)
    caption = "ROC curve: anomalies found over false alarms, at every threshold."
    caption += f" {unlabelled} images without a label are left out." if unlabelled else ""
    return [*parts, Shown(encode_figure(roc_figure(scored, figures.auc)).content, caption)]


def _panels(panels: Sequence[PanelColumn], colours: Range | None) -> list[Section]:
    if not panels:
        return []
    caption = "From above: what was measured of the same image. Each row has one range of colours."
    pages = [panels[start : start + _PANEL_COLUMNS] for start in range(0, len(panels), _PANEL_COLUMNS)]
    shown = [Shown(encode_figure(panel_figure(page, colours)).content, caption) for page in pages]
    return [Section("Where", shown)]


def _extremes(scored: ScoredImages, colours: Range | None) -> list[Section]:
    """The images from both ends of the ranking."""
    order = np.argsort(-np.asarray(scored.scores), kind="stable")
    sections = [_ranked(scored, "Most anomalous", order[:EXTREMES], 1, colours)]
    rest = order[EXTREMES:][-EXTREMES:][::-1]
    if len(rest):
        sections.append(_ranked(scored, "Most normal", rest, len(order), colours))
    return sections


def _ranked(
    scored: ScoredImages, title: str, chosen: Int[np.ndarray, "chosen"], first: int, colours: Range | None
) -> Section:
    """Images with their names; ranks go up from 1, or down from the last."""
    ranks = [first + place if first == 1 else first - place for place in range(len(chosen))]
    pictures = [_picture(scored, index, colours) for index in chosen]
    captions = [f"{rank}: {scored.scores[index]:.4g}" for rank, index in zip(ranks, chosen, strict=True)]
    flags = np.zeros(0, bool) if scored.threshold is None else scored.threshold.flags(scored.scores)
    rows = []
    for rank, index in zip(ranks, chosen, strict=True):
        row: dict[str, Any] = {
            "rank": rank,
            "image": scored.names[index],
            "score": float(scored.scores[index]),
        }
        if len(flags):
            row["flagged"] = bool(flags[index])
        if len(scored.known):
            row["label"] = _GROUPS[int(scored.known_labels[index])][0]
        rows.append(row)
    about = "Rank and score" if colours is None else "Rank and score; the colours are the heat map's"
    return Section(
        title, [Shown(encode_image(contact_sheet(pictures, captions)).content, about), Table(rows)]
    )


def _picture(scored: ScoredImages, index: int, colours: Range | None) -> Picture:
    """The image, next to it the same under its heat map."""
    image = scored.image(int(index))
    if scored.heat is None or colours is None:
        return image
    return np.concatenate([image, overlay(image, scored.heat[index], *colours)], 1)


def _embedding(embedding: Embedding | None) -> list[Section]:
    if embedding is None:
        return []
    caption = "Features in a plane: what is near there is near here, distances between groups mean little."
    return [Section("Features", [Shown(encode_figure(embedding_figure(embedding)).content, caption)])]
