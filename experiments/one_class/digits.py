r"""One digit against the nine others: rotation prediction on 1,797 real handwritten digits.

    offsites train experiments/one_class/digits.py --workdir workdirs/one_class_digits
    offsites one_class protocol experiments/one_class/digits.py --workdir workdirs/digits_table \
        --scorers gde kde knn ocsvm --raw-pixels

Variants: one for each digit, 0 (default) to 9. Data: the scans that ship with scikit-learn, even rows
to train on, odd rows to test on; about 90 images of the normal digit train a network of 26 thousand
parameters.

Machine: a laptop.
Expect: mean AUC of ten digits and five seeds 98.8 % (standard deviation 0.2) by a Gaussian, 98.1 by the
nearest neighbour, 97.0 by a one-class SVM, 96.0 by kernel density. It shows that the protocol runs, with all
scorers. It is no test of representations: raw pixels have 99.2, 99.5, 99.4 and 98.9.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes.published import CATEGORIES, chosen

VARIANTS = CATEGORIES["digits"]


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    digit, _ = chosen(argument, VARIANTS, ("",))
    config = ml_collections.ConfigDict()
    config.project = "one_class"

    config.model = {
        "name": "resnet_10",
        "width": 0.25,
        "head": (64, 64),
        "overrides": {"depths": (1, 1), "stem_width": 16},
    }
    view = {"min_crop": 0.75, "jitter": {"brightness": 0.2, "contrast": 0.2}}
    config.task = {"pretext": {"name": "rotation", "augmentation": view}, "l2": 3e-4}
    config.data = {"source": "digits", "category": digit, "image_size": 16}
    config.optimizer = {
        "name": "momentum",
        "momentum": 0.9,
        "learning_rate": {"name": "cosine", "peak": 0.03},
    }
    config.train = {
        "steps": 50,
        "batch_size": 16,
        "log_every": 25,
        "checkpoint_every": 50,
        "keep": {"last": 1},
    }
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test", "batch_size": 128}}
    config.expected = {
        "mean/auc": {"value": 98.8, "tolerance": 0.5, "source": "this repository, five seeds, gde"}
    }
    return config
