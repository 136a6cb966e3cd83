"""The one trainer: contract, state, step, loop, optimizers, checkpoints, evaluation.

The room shares its name with its main function, so it can be called:
`offsites_jax.train(experiment, workdir)` is `offsites_jax.train.loop.train`.
"""

import sys
import types
from typing import Any


class _Room(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from offsites_jax.train.loop import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
