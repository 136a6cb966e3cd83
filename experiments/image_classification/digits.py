"""A small EfficientNetV2 on 1,797 real handwritten digits, by progressive learning.

    offsites train experiments/image_classification/digits.py --workdir workdirs/digits

Data: the scans that ship with scikit-learn (8 x 8 pixels, 43 writers); a fifth of every class is the test
split and is never trained on. Two stages as in arXiv 2104.00298, section 4.2: small images with weak
regularisation, then larger images with stronger regularisation.

Machine: a laptop. The mesh is 8 virtual CPU devices (data=4, fsdp=2), so that the very program a pod would
run, sharding included, runs here. About 2 minutes on 2 cores.
The checkpoint kept as best is picked by the test images, since there is no validation split, which flatters
it; figures are those of the last step.
Expect: 0.985 to 1.0 test accuracy. It shows that data, stages, sharding, checkpoints, evaluation and export
work on real images; it says nothing about ImageNet.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
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
            "dropout_rate": 0.1,
            "stochastic_depth_rate": 0.0,
            "norm": {"statistics": "group", "group_size": 16, "momentum": 0.9},
        },
    }
    config.task = {"label_smoothing": 0.1}
    config.data = {
        "source": "digits",
        "image_size": 32,
        "pad": 1,
        "channels": 1,
        "crop_area": (0.6, 1.0),
        "eval_crop": "whole",
        "flip": False,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 4e-3, "warmup_steps": 50},
        "weight_decay": 0.02,
        "clip_norm": 1.0,
    }
    config.train = {
        "steps": 600,
        "batch_size": 128,
        "seed": 0,
        "log_every": 20,
        "checkpoint_every": 150,
        "eval_every": 150,
        "ema": {"decay": 0.99},
        "keep": {"last": 2, "best": "test/accuracy"},
    }
    config.stages = (
        {
            "name": "small",
            "until": 0.5,
            "data": {"image_size": 16, "crop_area": (0.8, 1.0)},
            "model": {"overrides": {"dropout_rate": 0.0}},
        },
        {"name": "large"},
    )
    config.mesh = {"data": 4, "fsdp": 2, "cpu_devices": 8}
    config.sharding = {"rules": ((".*", "fsdp"),), "fsdp_min_size": 1024}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {
        "test/accuracy": {"value": 0.9925, "tolerance": 0.0075, "source": "this repository; 360 images"}
    }
    return config
