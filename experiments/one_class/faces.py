"""Faces against pictures that are none: rotation prediction on 70 faces.

    offsites train experiments/one_class/faces.py --workdir workdirs/faces

Data: the 200 pictures of 25 x 25 pixels that ship with scikit-image (a part of Labeled Faces in the Wild): 70
faces to train on, 30 faces and 100 others to test on.

Machine: a laptop, a minute on 2 cores.
Expect: an area under the curve of 99.7 (one seed). Faces are easily told from patches of background, so
a high figure says little.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes.papers import droc


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(droc("rotation", images=70))
    config.project = "one_class"
    config.model.update({"name": "resnet_10", "width": 0.25, "head": (128, 128)})
    config.model.overrides = {"stem_width": 32}
    config.data = {"source": "faces", "image_size": 32}
    config.train.update({"steps": 200, "batch_size": 32, "log_every": 50, "checkpoint_every": 200})
    config.optimizer.learning_rate.every = 1
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {}
    return config
