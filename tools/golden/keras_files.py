"""One small network as Keras 2 and Keras 3 keep its weights, for tests/export/test_files.py.

Needs keras 3.15.1 with the JAX backend, nothing of this project:

    KERAS_BACKEND=jax python tools/golden/keras_files.py

The numbers of the k-th weight of all are 100 k, 100 k + 1, and so on.
"""

import pathlib

import h5py
import keras
import numpy as np
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

FOLDER = pathlib.Path(__file__).parents[2] / "tests/export/golden"


def main():
    """Write both files."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3, use_bias=False, name="stem_conv"),
            keras.layers.BatchNormalization(name="stem_bn"),
            keras.layers.DepthwiseConv2D(2, use_bias=False, name="block1a_dwconv2"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(3, name="predictions"),
        ],
        name="small",
    )
    for index, weight in enumerate(model.weights):
        weight.assign(100 * index + np.arange(np.prod(weight.shape)).reshape(weight.shape))
    with h5py.File(FOLDER / "keras_2.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)
    model.save(FOLDER / "keras_3.keras")


if __name__ == "__main__":
    main()
