"""Why an image has its score, as pictures: the image, integrated gradients, GradCAM and the heat map."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offsites_jax.projects.one_class.localization.dense import Images
from offsites_jax.projects.one_class.localization.explain import Attributions, integrated_gradients
from offsites_jax.projects.one_class.report.heat_pictures import Heat, file_names
from offsites_jax.projects.one_class.report.scoring import ReadFiles
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.train.media import encode_figure, encode_json

EXPLANATIONS = "explanations.json"

_STRONGEST = 0.995  # quantile of attributions that has the full colour


def explain_files(
    bundle: Bundle, read: ReadFiles, output: epath.PathLike, *, steps: int
) -> Iterator[dict[str, Any]]:
    """Writes `<name>.png` for every image, and all figures to `explanations.json`.

    Args:
      bundle: its scorer of whole images is what is explained.
      read: the images.
      output: folder, made if it is not there.
      steps: of the integral.

    Yields:
      For each image its score, that of the whole image, that of the mean normal image, and how far the sum of
      the attributions is from their difference, as a share of that.

    Raises:
      UserError: a file cannot be written.

    """
    folder, rows = epath.Path(output), []
    for file, image, name in zip(
        read.files, read.images, file_names([file.name for file in read.files]), strict=True
    ):
        found, figure, score = explain_image(bundle, image[None], steps=steps)
        row = {
            "path": file.path,
            "score": score,
            "whole_image_score": float(found.scores[0]),
            "baseline_score": found.baseline_score,
            "completeness_gap": float(found.gap[0]),
        }
        rows.append(row)
        write_file(folder / f"{name}.png", encode_figure(figure).content)
        yield row
    write_file(folder / EXPLANATIONS, encode_json(rows).content)


def explain_image(bundle: Bundle, image: Images, *, steps: int) -> tuple[Attributions, Figure, float]:
    """Attributions of one image [1, side, side, 3], the picture, and the score of the bundle."""
    found = integrated_gradients(
        bundle.network, bundle.model.variables, bundle.whole, image, bundle.baseline, steps=steps
    )
    scores, heat = bundle.score_and_heat(image)
    cam = heat if bundle.windows is None else bundle.cam(image)
    panels: list[tuple[str, Heat | None, str]] = [
        (f"score {scores[0]:.4g}", None, ""),
        ("integrated gradients", found.heat[0], "RdBu_r"),
        ("GradCAM", cam[0], "turbo"),
    ]
    if bundle.windows is not None:
        panels.append(("scores of windows", heat[0], "turbo"))
    figure = Figure(figsize=(2.9 * len(panels), 3.0), layout="constrained")
    for axes, (title, values, colours) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _show(figure, axes, image[0], values, colours)
        axes.set_title(title, fontsize=9)
    return found, figure, float(scores[0])


def _show(figure: Figure, axes: Axes, image: np.ndarray, values: Heat | None, colours: str) -> None:
    axes.set_axis_off()
    if values is None:
        axes.imshow(image)
        return
    signed = colours == "RdBu_r"
    high = float(np.quantile(np.abs(values) if signed else values, _STRONGEST)) or 1.0
    low = -high if signed else float(values.min())
    shown = axes.imshow(values, cmap=colours, vmin=low, vmax=max(high, low + 1e-12))
    figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.02).ax.tick_params(labelsize=7)
