"""Heat maps as files and as figures: one picture an image, panels as in CutPaste, and contact sheets."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.stored import npy_bytes, write_file
from offsites_jax.train.media import encode_image
from offsites_jax.train.overlay import Picture, colour_bar, outline, overlay

HEAT_MAPS = "heatmaps"
"""Folder of the heat maps inside that of the report."""

_COOLEST, _HOTTEST = 0.05, 0.995  # quantiles of all pixels of a run between which the colours lie
_SAMPLED = 4  # every so many rows and columns count for them: heat maps are smooth
_DEFECT_COLOUR = (255, 0, 0)
_SHEET_COLUMNS = 8  # of square pictures
_SHEET_WIDTH = 1200  # pixels
_SHEET_GAP, _CAPTION = 8, 18  # pixels between pictures, and of a line of text

Heat = Float[np.ndarray, "height width"]
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class PanelColumn:
    """An image from all sides; what is None is left out.

    Attributes:
      image: uint8 RGB.
      mask: where it is defective; None is nowhere, or not known.
      cam: GradCAM.
      heat: upsampled scores of patches.

    """

    image: Picture
    mask: Bool[np.ndarray, "height width"] | None = None
    cam: Heat | None = None
    heat: Heat | None = None


def heat_range(maps: Sequence[Heat]) -> Range:
    """Heat of the first and of the last colour, for all maps of a run: their 5 % and 99.5 % quantiles."""
    values = np.concatenate([np.asarray(heat)[::_SAMPLED, ::_SAMPLED].reshape(-1) for heat in maps])
    low, high = (float(value) for value in np.quantile(values, (_COOLEST, _HOTTEST)))
    return (low, high) if low < high else (low, low + 1)


def write_heat_maps(
    folder: epath.PathLike,
    names: Sequence[str],
    image: Callable[[int], Picture],
    maps: Sequence[Heat],
    colours: Range | None = None,
    label: str = "score",
) -> Range:
    """Writes `heatmaps/<name>.png`, a turbo overlay with its colour bar, and `heatmaps/<name>.npy`, float32.

    All of them or none have the same range of colours. Files appear whole or not at all.

    Args:
      folder: to write to.
      names: of the images, such as their paths.
      image: pixels by number.
      maps: one an image, of its size.
      colours: heat of the first and of the last colour; None is the `heat_range` of these maps.
      label: what the colour bar is of.

    Returns:
      The range of colours.

    Raises:
      UserError: two images that would share a file, or a folder that cannot be written to.

    """
    files = [epath.Path(folder) / HEAT_MAPS / name for name in file_names(names)]
    low, high = colours or heat_range(maps)
    for index, (file, heat) in enumerate(zip(files, maps, strict=True)):
        picture = overlay(image(index), heat, low, high)
        picture = np.concatenate([picture, colour_bar(len(picture), low, high, label)], 1)
        write_file(file.with_name(f"{file.name}.png"), encode_image(picture).content)
        write_file(file.with_name(f"{file.name}.npy"), npy_bytes(np.asarray(heat, np.float32)))
    return low, high


def file_names(names: Sequence[str]) -> list[str]:
    """Paths below a folder, whatever the names are: without drive, root and steps upwards.

    Raises:
      UserError: two that become the same.

    """
    found: dict[str, str] = {}
    for name in names:
        parts = [part for part in re.split(r"[/\\]", name.replace("\0", "")) if part not in ("", ".", "..")]
        file = "/".join(part.replace(":", "_") for part in parts) or "image"
        if file in found:
            raise UserError(
                f"{name!r} and {found[file]!r} would share the heat map {file}.png; "
                "score them separately, or rename one"
            )
        found[file] = name
    return list(found)


def panel_figure(columns: Sequence[PanelColumn], colours: Range | None = None) -> Figure:
    """Rows input, ground truth, GradCAM and patch heat map, a column an image (arXiv 2104.04015, fig. 7-21).

    Rows that no image has anything for are left out. Each row has one range of colours.

    Args:
      columns: the images.
      colours: of the patch heat maps, where a run has fixed it.

    """
    cams = [column.cam for column in columns if column.cam is not None]
    heats = [column.heat for column in columns if column.heat is not None]
    rows: list[tuple[str, Callable[[PanelColumn], Picture | None], Range | None]]
    rows = [("input", lambda column: column.image, None)]
    if any(column.mask is not None for column in columns):
        rows.append(("ground truth", _with_defect, None))
    if cams:
        range_of_cams = (0.0, heat_range(cams)[1])
        rows.append(("GradCAM", lambda column: _with_heat(column, column.cam, range_of_cams), range_of_cams))
    if heats:
        range_of_heats = colours or heat_range(heats)
        rows.append(
            ("patch heat map", lambda column: _with_heat(column, column.heat, range_of_heats), range_of_heats)
        )
    figure = Figure(figsize=(1.6 * len(columns) + 1.2, 1.65 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes_row, (title, draw, colours_of_row) in zip(grid, rows, strict=True):
        for axes, column in zip(axes_row, columns, strict=True):
            _show(axes, draw(column))
        axes_row[0].set_ylabel(title)
        if colours_of_row:
            _bar_beside(figure, list(axes_row), colours_of_row)
    return figure


def contact_sheet(pictures: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Small pictures in rows of eight squares or four wide ones, each below its caption."""
    height, width = pictures[0].shape[:2]
    most = max(1, round(_SHEET_COLUMNS * height / width))
    across, down = min(len(pictures), most), -(-len(pictures) // most)
    cell = _SHEET_WIDTH // most
    size = (cell - _SHEET_GAP, round((cell - _SHEET_GAP) * height / width))
    step = size[1] + _CAPTION + _SHEET_GAP
    sheet = Image.new("RGB", (cell * across, step * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = cell * (place % most), step * (place // most)
        draw.text((left + size[0] // 2, top + _CAPTION // 2), caption, "black", font, anchor="mm")
        sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), (left, top + _CAPTION))
    return np.asarray(sheet)


def _with_defect(column: PanelColumn) -> Picture:
    """The image with its defect outlined: around a normal one nothing is drawn."""
    if column.mask is None:
        return column.image
    width = max(1, len(column.image) // 96)
    return outline(column.image, column.mask, colour=_DEFECT_COLOUR, width=width)


def _with_heat(column: PanelColumn, heat: Heat | None, colours: Range) -> Picture | None:
    return None if heat is None else overlay(column.image, heat, *colours)


def _show(axes: Axes, picture: Picture | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if picture is None:
        axes.set_frame_on(False)
    else:
        axes.imshow(picture)


def _bar_beside(figure: Figure, axes: Sequence[Axes], colours: Range) -> None:
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(*colours), "turbo")
    figure.colorbar(scale, ax=axes, fraction=0.05, pad=0.01).ax.tick_params(labelsize=7)
