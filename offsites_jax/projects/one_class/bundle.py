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
import json
import os
import shutil
import tempfile
from typing import Any, cast

import jax
import msgspec
import numpy as np
import safetensors.numpy
from etils import epath
from jaxtyping import Array, Float, UInt8

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class import localization, scorers
from offsites_jax.projects.one_class.explain import grad_cam
from offsites_jax.projects.one_class.features import Layer, of_images, reading
from offsites_jax.projects.one_class.localization import Images, Windows
from offsites_jax.projects.one_class.model import OneClassNetwork
from offsites_jax.projects.one_class.patch_gaussians import apply_patches
from offsites_jax.projects.one_class.scorer_base import Scorer
from offsites_jax.projects.one_class.scores import Threshold
from offsites_jax.projects.one_class.task import OneClass
from offsites_jax.train.config import resolve
from offsites_jax.train.contract import Variables
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


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A representation with a scorer fitted to it.

    Attributes:
      model: the network.
      scorer: fitted to features of normal images.
      layer: what it reads of a whole image.
      windows: set if it reads windows instead, and an image is as anomalous as its worst window.
      whole: fitted to pooled features of whole images; what explanations are of.
      baseline: the mean normal image, in [0, 1].
      threshold: scores above it are flagged.
      normal_scores: of the held-out normal images that set it.
      note: what else a report should say.

    """

    model: TrainedModel
    scorer: Scorer
    layer: Layer
    windows: Windows | None
    whole: Scorer
    baseline: Float[np.ndarray, "side side 3"]
    threshold: Threshold
    normal_scores: tuple[float, ...]
    note: str = ""

    @property
    def image_size(self) -> int:
        """Side that images are brought to, in pixels."""
        return self.model.experiment.data.image_size

    @property
    def network(self) -> OneClassNetwork:
        """The network of the model."""
        return cast(OneClass, self.model.task).model

    def score(self, images: Images) -> Float[np.ndarray, "count"]:
        """Scores of images at the model's size; larger is more anomalous.

        Raises:
          UserError: images of another size, or a score that is not finite.

        """
        images = self._checked(images)
        if self.windows is not None:
            return localization.image_scores(self._maps(images))
        return self.scorer.score(of_images(self.model, images, self.layer))

    def score_and_heat(
        self, images: Images
    ) -> tuple[Float[np.ndarray, "count"], Float[np.ndarray, "count side side"]]:
        """Scores, and heat maps of the size of the images.

        Of windows the heat is their scores, spread over their pixels; of whole images it is GradCAM.
        """
        images = self._checked(images)
        if self.windows is not None:
            maps = self._maps(images)
            return localization.image_scores(maps), localization.upsample(maps, self.windows)
        scores = self.score(images)
        return scores, self.cam(images)

    def cam(self, images: Images) -> Float[np.ndarray, "count side side"]:
        """GradCAM of the scorer of whole images."""
        return grad_cam(self.network, self.model.variables, self.whole, self._checked(images))

    def pure(
        self, variables: Variables, scorer: Scorer, images: UInt8[Array, "count side side 3"]
    ) -> Float[Array, "count"]:
        """The scores as a pure function: what an export ships."""
        windows = self.windows
        if windows is not None:

            def worst(image: Array) -> Array:
                found = localization.window_features(self.network, variables, image, windows)
                return apply_patches(scorer, found[:, None]).max()

            return jax.lax.map(worst, images)

        def predict(batch: dict[str, Array]) -> dict[str, Array]:
            return self.model.task.predict(variables, batch)

        return scorer.apply(reading(predict, self.layer)({"image": images})["features"])

    def _maps(self, images: Images) -> localization.Maps:
        assert self.windows is not None
        return localization.dense_map(
            self.network, self.model.variables, self.scorer, images, self.windows, self.model.mesh
        )

    def _checked(self, images: Images) -> Images:
        images, expected = localization.checked_images(images), (self.image_size, self.image_size, 3)
        if images.shape[1:] != expected:
            raise UserError(
                f"images of {list(images.shape[1:])}; this bundle was made for {list(expected)}: resize them"
            )
        return images


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
        scorers.save(bundle.scorer, unfinished / _SCORER)
        scorers.save(bundle.whole, unfinished / _WHOLE)
        (unfinished / _BASELINE).write_bytes(_npy(bundle.baseline))
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
    about = _read_about(path / _ABOUT)
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
        scorer=scorers.load(path / _SCORER),
        layer=about.layer,
        windows=about.windows,
        whole=scorers.load(path / _WHOLE),
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


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


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


def _read_about(file: epath.Path) -> About:
    try:
        plain = json.loads(file.read_bytes())
        if isinstance(plain, dict) and isinstance(plain.get("format"), int) and plain["format"] > FORMAT:
            raise UserError(f"{file}: format {plain['format']} is newer than this package; update it")
        return msgspec.convert(plain, About)
    except (ValueError, msgspec.ValidationError) as error:
        raise DamagedDataError(f"{file}: does not describe a bundle ({error}); fit it again") from None
