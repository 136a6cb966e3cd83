"""What a CoAtNet looks at: how much a few pixels of an image attend to all others, in chosen layers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from offsites_jax.errors import UserError
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.models.stacked import unstack_blocks
from offsites_jax.nn.relative_tables import Grid, pair_biases_by_gather, resize_table
from offsites_jax.projects.image_classification.figures.biases import block_of, in_order
from offsites_jax.train.contract import Variables
from offsites_jax.train.restore import TrainedModel

MOST_LAYERS = 6  # drawn where none are named
_CAPTURED = ("query", "key", "rel_mlp")

Point = tuple[float, float]
"""A place in an image: shares of its width and its height, from the left and from above."""

Image = UInt8[np.ndarray, "height width channels"]
Maps = dict[str, Float[np.ndarray, "heads points height width"]]


def attention_maps(
    model: CoAtNet,
    variables: Variables,
    pixels: Float[Array, "1 height width channels"],
    points: Sequence[Point],
) -> dict[str, Float[Array, "heads points height width"]]:
    """Shares of attention, which add up to one, that points pay to the pixels of each layer's map.

    Args:
      model: the network; one that is scanned over is taken apart.
      variables: of it.
      pixels: an image, normalised.
      points: the pixel of a map that a point is in is the one that looks.

    Returns:
      Maps by the name of their block, such as ``stage_3/block_0``, in order.

    """
    plain = model.clone(scan=False, remat=False)
    variables = unstack_blocks(variables)
    found = _captured(plain, variables, pixels)
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    maps = {}
    for name in in_order({block_of(path) for path in found if path.endswith("/query")}):
        grid = model.map_size(int(name.split("/")[0].removeprefix("stage_")), *pixels.shape[1:3])
        layer = f"{name}/attn"
        table = params.get(f"{layer}/relative_bias", found.get(f"{layer}/rel_mlp"))
        maps[name] = _looks(found[f"{layer}/query"][0], found[f"{layer}/key"][0], table, grid, points)
    return maps


def attention_of(model: TrainedModel, points: Sequence[Point]) -> Callable[[Image], Maps]:
    """A function from an image as the network gets it to its maps.

    Raises:
      UserError: the network is no CoAtNet.

    """
    task: Any = model.task
    if not isinstance(task.model, CoAtNet):
        raise UserError(f"{type(task.model).__name__} has no attention to draw; give the run of a CoAtNet")
    run = jax.jit(functools.partial(attention_maps, task.model, points=tuple(points)))

    def look(image: Image) -> Maps:
        found = run(model.variables, pixels=task.pixels(jnp.asarray(image[None])))
        return {name: np.asarray(values) for name, values in found.items()}

    return look


def choose(maps: Maps, layers: Sequence[str]) -> Maps:
    """The maps of the named layers; where none are named, of a few from the first to the last."""
    if not maps:
        raise UserError(
            "the network has no attention to draw; give the run of a CoAtNet with transformer blocks"
        )
    for name in layers:
        if name not in maps:
            raise UserError(f"--layers: the network has no {name!r}; it has {', '.join(maps)}")
    if not layers:
        names = list(maps)
        places = np.linspace(0, len(names) - 1, min(len(names), MOST_LAYERS)).round().astype(int)
        layers = [names[place] for place in places]
    return {name: maps[name] for name in layers}


def attention_figure(image: Image, maps: Maps, points: Sequence[Point]) -> Figure:
    """A row for each point, marked in the image; a column for each layer, the mean over its heads.

    Every map has a scale of its own, from no attention (dark) to its largest share, which is written above; a
    frame is around the pixel that looks.
    """
    height, width = image.shape[:2]
    figure = Figure(figsize=(1.9 * (len(maps) + 1) + 0.3, 2.1 * len(points) + 0.3), layout="constrained")
    grid = figure.subplots(len(points), len(maps) + 1, squeeze=False)
    for row, (line, (x, y)) in enumerate(zip(grid, points, strict=True)):
        for axes in line:
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
            axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
            axes.plot(x * width, y * height, "+", color="cyan", ms=11, mew=2)
        line[0].set_title(f"looks from {x:.2g}, {y:.2g}", fontsize=8)
        for axes, (name, heads) in zip(line[1:], maps.items(), strict=True):
            mean = heads[:, row].mean(axis=0)
            axes.imshow(
                mean,
                cmap="inferno",
                alpha=0.65,
                vmin=0,
                vmax=mean.max(),
                extent=(0, width, height, 0),
                zorder=1,
            )
            rows, columns = mean.shape
            side = width / columns, height / rows
            corner = int(x * columns) * side[0], int(y * rows) * side[1]
            axes.add_patch(Rectangle(corner, *side, fill=False, edgecolor="cyan"))
            axes.set_title(f"{name.replace('/', ' ')}\nup to {mean.max():.1%}", fontsize=8)
    return figure


def point_of(text: str) -> Point:
    """A point as `0.5,0.25`.

    Raises:
      UserError: it is not in the image.

    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x < 1 and 0 <= y < 1):
        raise UserError(f"--points: {text!r}: give shares of width and height below 1, as 0.5,0.25")
    return x, y


def _captured(model: CoAtNet, variables: Variables, pixels: Array) -> dict[str, Array]:
    """What the queries, keys and computed tables of all layers are, by path."""
    _, state = model.apply(
        variables,
        pixels,
        train=False,
        method="endpoints",
        capture_intermediates=lambda module, method: method == "__call__" and module.name in _CAPTURED,
        mutable=["intermediates"],
    )
    leaves: Mapping[str, Any] = traverse_util.flatten_dict(state.get("intermediates", {}), sep="/")
    return {path.removesuffix("/__call__"): values[0] for path, values in leaves.items()}


def _looks(
    query: Float[Array, "pixels heads size"],
    key: Float[Array, "pixels heads size"],
    table: Float[Array, "heads dy dx"] | None,
    grid: Grid,
    points: Sequence[Point],
) -> Float[Array, "heads points height width"]:
    """softmax(query . key / sqrt(size) + bias) of the pixels that points are in."""
    height, width = grid
    rows = jnp.array([int(y * height) * width + int(x * width) for x, y in points])
    products = jnp.einsum("qhd,khd->hqk", query[rows], key, preferred_element_type=jnp.float32)
    products /= query.shape[-1] ** 0.5
    if table is not None:
        products += pair_biases_by_gather(resize_table(table, grid))[:, rows]
    shares = jax.nn.softmax(products, axis=-1)
    return shares.reshape(*shares.shape[:2], height, width)
