"""A representation with a scorer fitted to it: images in, scores and heat maps out."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.detectors.patches import apply_patches
from offsites_jax.projects.one_class.localization import dense
from offsites_jax.projects.one_class.localization.dense import Images, Windows
from offsites_jax.projects.one_class.localization.explain import grad_cam
from offsites_jax.projects.one_class.measures.scores import Threshold
from offsites_jax.projects.one_class.model import OneClassNetwork
from offsites_jax.projects.one_class.second_stage.features import Layer, network_of, of_images, reading
from offsites_jax.train.contract import Variables
from offsites_jax.train.restore import TrainedModel


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
        return network_of(self.model)

    def score(self, images: Images) -> Float[np.ndarray, "count"]:
        """Scores of images at the model's size; larger is more anomalous.

        Raises:
          UserError: images of another size, or a score that is not finite.

        """
        images = self._checked(images)
        if self.windows is not None:
            return dense.image_scores(self._maps(images))
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
            return dense.image_scores(maps), dense.upsample(maps, self.windows)
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
                found = dense.window_features(self.network, variables, image, windows)
                return apply_patches(scorer, found[:, None]).max()

            return jax.lax.map(worst, images)

        def predict(batch: dict[str, Array]) -> dict[str, Array]:
            return self.model.task.predict(variables, batch)

        return scorer.apply(reading(predict, self.layer)({"image": images})["features"])

    def _maps(self, images: Images) -> dense.Maps:
        assert self.windows is not None
        return dense.dense_map(
            self.network, self.model.variables, self.scorer, images, self.windows, self.model.mesh
        )

    def _checked(self, images: Images) -> Images:
        images, expected = dense.checked_images(images), (self.image_size, self.image_size, 3)
        if images.shape[1:] != expected:
            raise UserError(
                f"images of {list(images.shape[1:])}; this bundle was made for {list(expected)}: resize them"
            )
        return images
