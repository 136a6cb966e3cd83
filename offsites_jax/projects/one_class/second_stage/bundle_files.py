"""All that is needed to score images, in one folder: weights, scorer, threshold and how images are prepared.

    bundle.json          what it is, the configuration of the training, threshold, sizes
    weights.safetensors  variables of the network by name
    scorer.npz, .json    the fitted scorer
    whole.npz, .json     a scorer of whole images, which explanations are of
    baseline.npy         the mean normal image, where explanations start

No pickle, and no data set is needed to open it.
"""

import dataclasses
import io
import os
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from jaxtyping import Float

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.localization.dense import Windows
from offsites_jax.projects.one_class.measures.scores import Threshold
from offsites_jax.projects.one_class.scorers import load as load_scorer
from offsites_jax.projects.one_class.scorers import save as save_scorer
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.second_stage.features import Layer
from offsites_jax.projects.one_class.stored import npy_bytes, read_about
from offsites_jax.train.config import resolve
from offsites_jax.train.digest import named_leaves
from offsites_jax.train.media import encode_json
from offsites_jax.train.program import create_program
from offsites_jax.train.restore import TrainedModel
from offsites_jax.train.warm_start import InitFrom, warm_start

FOLDER = "bundle"
"""Name of the bundle in the workdir of its run."""

FORMAT, CHANNELS = 1, "RGB"
_ABOUT, _WEIGHTS, _SCORER = "bundle.json", "weights.safetensors", "scorer"
_WHOLE, _BASELINE = "whole", "baseline.npy"


@dataclasses.dataclass(frozen=True)
class About:
    """The file bundle.json.

    Attributes:
      format: version of this layout.
      config: of the training.
      step: of the checkpoint.
      image_size: side that images are brought to, in pixels.
      channels: their order.
      layer: what the scorer reads of a whole image.
      windows: where windows are, if the scorer reads those instead.
      threshold: scores above it are flagged.
      normal_scores: of the held-out normal images that set it.
      note: what else a report should say.

    """

    format: int
    config: dict[str, Any]
    step: int
    image_size: int
    channels: str
    layer: Layer
    windows: Windows | None
    threshold: Threshold
    normal_scores: tuple[float, ...]
    note: str


def save(bundle: Bundle, folder: epath.PathLike) -> None:
    """Writes a bundle; it replaces an earlier one only when complete.

    Raises:
      UserError: the folder cannot be written, or is there and holds something else.

    """
    path = epath.Path(folder)
    if path.exists() and not (path / _ABOUT).exists():
        raise UserError(f"{path}: exists and is no bundle; choose another folder")
    about = About(
        format=FORMAT,
        config=bundle.model.experiment.raw,
        step=bundle.model.step,
        image_size=bundle.image_size,
        channels=CHANNELS,
        layer=bundle.layer,
        windows=bundle.windows,
        threshold=bundle.threshold,
        normal_scores=bundle.normal_scores,
        note=bundle.note,
    )
    weights = {name: np.asarray(leaf) for name, leaf in named_leaves(bundle.model.variables).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = epath.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from None
    try:
        (unfinished / _WEIGHTS).write_bytes(safetensors.numpy.save(weights))
        save_scorer(bundle.scorer, unfinished / _SCORER)
        save_scorer(bundle.whole, unfinished / _WHOLE)
        (unfinished / _BASELINE).write_bytes(npy_bytes(bundle.baseline))
        (unfinished / _ABOUT).write_bytes(encode_json(dataclasses.asdict(about)).content)
        _put_in_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_bundle(folder: epath.PathLike) -> Bundle:
    """The bundle in a folder, or in the workdir that it was fitted in.

    Raises:
      UserError: there is none, or it is of a newer version.
      DamagedDataError: it is broken, or its parts do not belong together.

    """
    path = epath.Path(folder)
    path = path if (path / _ABOUT).exists() else path / FOLDER
    if not (path / _ABOUT).exists():
        raise UserError(
            f"{folder}: no fitted scorer there; give the workdir of `offsites one_class fit`, or run "
            "`offsites one_class fit_scorer` on that of a training"
        )
    about = read_about(path / _ABOUT, About, FORMAT, "a bundle")
    experiment = resolve(about.config).final
    if (about.image_size, about.channels) != (experiment.data.image_size, CHANNELS):
        raise UserError(
            f"{path / _ABOUT}: is of {about.image_size} pixels, {about.channels}, but its model takes "
            f"{experiment.data.image_size} pixels, {CHANNELS}; fit the scorer again"
        )
    experiment = dataclasses.replace(experiment, mesh=MeshSettings(data=1))
    program = create_program(experiment, create_mesh(experiment.mesh))
    fresh = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        program.abstract.variables(ema=False),
    )
    variables, _ = warm_start(fresh, InitFrom(os.fspath(path / _WEIGHTS)))
    return Bundle(
        model=TrainedModel(program, variables, about.step),
        scorer=load_scorer(path / _SCORER),
        layer=about.layer,
        windows=about.windows,
        whole=load_scorer(path / _WHOLE),
        baseline=_read_baseline(path / _BASELINE, about.image_size),
        threshold=about.threshold,
        normal_scores=about.normal_scores,
        note=about.note,
    )


def _put_in_place(unfinished: epath.Path, path: epath.Path) -> None:
    """Renames a finished folder; an earlier one steps aside first and is removed last."""
    earlier = path.with_name(f".{path.name}.{os.getpid()}.earlier")
    if path.exists():
        path.rename(earlier)
    unfinished.rename(path)
    shutil.rmtree(earlier, ignore_errors=True)


def _read_baseline(file: epath.Path, side: int) -> Float[np.ndarray, "side side 3"]:
    try:
        baseline = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedDataError(f"{file}: cannot be read ({error}); fit the bundle again") from None
    if baseline.shape != (side, side, 3) or baseline.dtype != np.float32:
        raise DamagedDataError(
            f"{file}: {baseline.dtype}{list(baseline.shape)} is no image of {side} pixels; fit again"
        )
    return baseline
