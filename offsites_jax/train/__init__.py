"""The one trainer: contract, state, step, loop, optimizers, checkpoints, evaluation."""
