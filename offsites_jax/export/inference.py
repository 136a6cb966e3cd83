"""A trained model as a pure function of flat arrays, ready to be lowered for other machines."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
from jax import export
from jaxtyping import Array

from offsites_jax.errors import UserError
from offsites_jax.models.folding import fold
from offsites_jax.train.contract import Batch, Variables
from offsites_jax.train.state import flatten, unflatten

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
BATCH = "batch"
NO_MESH = jax.sharding.Mesh(np.empty((), object), ())

Outputs = dict[str, Array]
Specs = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Inference:
    """What an export ships.

    Attributes:
      predict: `Task.predict`.
      variables: its parameters and model state, as NumPy arrays.
      input_spec: `Task.input_spec`: shapes and dtypes by batch size.
      batch: rows of a batch, or "symbolic" for any number of them.
      platforms: where the exported function can run.
      model: the Linen module inside, for formats that write it as another library knows it.
      example: `Task.example`: inputs for checks where random numbers do not do.

    """

    predict: Callable[[Variables, Batch], Outputs]
    variables: Variables
    input_spec: Callable[[Any], Specs]
    batch: int | Literal["symbolic"] = "symbolic"
    platforms: tuple[str, ...] = ("cpu", "tpu", "cuda")
    model: nn.Module | None = None
    example: Callable[[np.random.Generator, Specs], dict[str, np.ndarray]] = lambda rng, spec: {}

    def __post_init__(self) -> None:
        """Raises UserError for a batch or a platform that cannot be."""
        if self.batch != "symbolic" and not (isinstance(self.batch, int) and self.batch > 0):
            raise UserError(f"batch: {self.batch!r} is neither a number of rows nor 'symbolic'")
        unknown = [name for name in self.platforms if name not in PLATFORMS]
        if unknown or not self.platforms:
            raise UserError(f"platforms: {', '.join(unknown) or 'none given'}; known: {', '.join(PLATFORMS)}")

    def bind(self, variables: Variables) -> Callable[[Batch], Outputs]:
        """The live predict under jit, bound to variables."""
        predict, placed = jax.jit(self.predict), jax.device_put(variables)
        return lambda batch: predict(placed, batch)

    def inputs(self) -> Specs:
        """Shapes and dtypes of one batch; the batch size is a symbol where it is left open."""
        return self.input_spec(self.batch if self.batch != "symbolic" else export.symbolic_shape(BATCH)[0])

    def specs(self) -> tuple[Specs, Specs]:
        """Shapes and dtypes of inputs and outputs, without computing anything."""
        return self.inputs(), self._trace(lambda inputs: jax.eval_shape(self.predict, self.variables, inputs))

    def folded(self) -> "Inference":
        """The same model in the form it is served in, see `models.folding`: equal up to rounding."""
        example = self.input_spec(1 if self.batch == "symbolic" else self.batch)
        predict, variables = fold(self.predict, self.variables, example)
        return dataclasses.replace(self, predict=predict, variables=variables)

    def export(self) -> export.Exported:
        """`f(params, inputs) -> outputs`, lowered for every platform.

        Parameters are an argument, a dict by flat name; nothing is sharded, so that any one device can run
        it whatever it was trained on.

        Raises:
          UserError: predict needs to know the batch size.

        """

        def predict(params: dict[str, Array], inputs: Batch) -> Outputs:
            return dict(self.predict(unflatten(params), inputs))

        params = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for name, leaf in flatten(self.variables).items()
        }
        lower = export.export(jax.jit(predict), platforms=self.platforms)
        # Under a mesh the function would be exported for as many devices as that has.
        with jax.set_mesh(NO_MESH):
            return self._trace(lambda inputs: lower(params, inputs))

    def random_batch(self, rows: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
        """Inputs drawn from what any model takes; `rows` where the batch size is open."""
        rng = np.random.default_rng(seed)
        spec = self.input_spec(rows if self.batch == "symbolic" else self.batch)
        drawn = {name: random_array(rng, entry) for name, entry in spec.items()}
        return {**drawn, **self.example(rng, spec)}

    def _trace(self, trace: Callable[[Specs], Any]) -> Any:
        try:
            return trace(self.inputs())
        except Exception as error:  # a symbol fails in many ways: jax's own, TypeError in NumPy ...
            if self.batch != "symbolic" or not self._succeeds(trace):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"batch: predict needs to know the batch size ({reason}); "
                "export with a fixed one, such as --batch 1"
            ) from error

    def _succeeds(self, trace: Callable[[Specs], Any]) -> bool:
        """Whether a trace that fails with a symbol works for a number of rows."""
        try:
            trace(self.input_spec(8))
        except Exception:
            return False
        return True


def random_array(rng: np.random.Generator, spec: jax.ShapeDtypeStruct) -> np.ndarray:
    """Standard normal floats, any byte, and zeros and ones for other integers: valid as ids and lengths."""
    if spec.dtype == np.uint8:
        return rng.integers(0, 256, spec.shape, np.uint8)
    if np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_:
        return rng.integers(0, 2, spec.shape).astype(spec.dtype)
    return rng.standard_normal(spec.shape).astype(spec.dtype)
