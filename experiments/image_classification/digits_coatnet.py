"""A small CoAtNet, two stages of convolution and two of relative attention, on 1,797 real handwritten digits.

    offsites train experiments/image_classification/digits_coatnet.py --workdir workdirs/digits_coatnet

Data: the scans that ship with scikit-learn (8 x 8 pixels, 43 writers), enlarged to 64 pixels; a fifth of
every class is the test split.
Machine: a laptop; about 6 minutes on 2 cores. The mesh is one CPU device.
The checkpoint kept as best is picked by the test images, since there is no validation split, which flatters
it; figures are those of the last step.
Expect: at least 0.975 test accuracy on 360 images.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "coatnet_0",
        "num_classes": 10,
        "overrides": {
            "stages": ("c1_d16", "c1_d32", "t2_d64", "t1_d128"),
            "stem_widths": (16, 16),
            "attention": {"head_size": 32},
            "stochastic_depth_rate": 0.0,
            # In so narrow a network activations start far below what the usual 1e-3 and 1e-5 are for.
            "norm": {"momentum": 0.9, "epsilon": 1e-5},
            "layer_norm_epsilon": 1e-6,
        },
    }
    config.task = {"label_smoothing": 0.1}
    config.data = {
        "source": "digits",
        "image_size": 64,
        "pad": 1,
        "channels": 1,
        "crop_area": (0.8, 1.0),
        "eval_crop": "whole",
        "flip": False,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 1e-3, "warmup_steps": 50},
        "b2": 0.95,
        "weight_decay": 0.02,
        "clip_norm": 1.0,
    }
    config.train = {
        "steps": 1000,
        "batch_size": 64,
        "log_every": 20,
        "checkpoint_every": 200,
        "eval_every": 200,
        "ema": {"decay": 0.99},
        "keep": {"last": 2, "best": "test/accuracy"},
    }
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {
        "test/accuracy": {"value": 0.98, "tolerance": 0.01, "source": "this repository; 360 images"}
    }
    return config
