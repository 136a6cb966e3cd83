"""A small EfficientNetV2 on drawings of emoji in four styles: colour, transparency, folders, flips.

    for style in google twitter facebook apple; do npm pack emoji-datasource-$style@16.0.0; done
    python tools/data/emoji_folders.py --output data/emoji emoji-datasource-*-16.0.0.tgz
    offsites train experiments/image_classification/emoji.py --workdir workdirs/emoji

Data: data/emoji/{train,test}/<category>/*.png: 64 x 64 pixels, nine categories. Three styles train; the
fourth tests, whose drawings were never seen, though other drawings of the same characters were.
Machine: a laptop; the mesh is one CPU device. 6.5 minutes of user time, 11.5 minutes on 2 busy cores.
Expect (one seed, 1,903 test images): 0.65 top-1, 0.95 top-5; flags, people and symbols are told apart,
activities are not (0.05). It shows that folders, colour and transparency work, and little else.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "efficientnet_v2_b0",
        "num_classes": 9,
        "overrides": {
            "blocks": (
                "r1_k3_s1_e1_i16_o16_c1",
                "r2_k3_s2_e4_i16_o32_c1",
                "r2_k3_s2_e4_i32_o64_se0.25",
                "r2_k3_s2_e4_i64_o96_se0.25",
            ),
            "head_width": 256,
            "dropout_rate": 0.2,
            "stochastic_depth_rate": 0.1,
        },
    }
    config.task = {"label_smoothing": 0.1}
    config.data = {
        "source": "folder",
        "path": "data/emoji",
        "image_size": 56,
        "eval_size": 64,
        "eval_crop": "whole",
        "crop_area": (0.5, 1.0),
        "augment": "randaugment",
        "num_ops": 1,
        "magnitude": 5,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 3e-3, "warmup_steps": 100},
        "weight_decay": 0.05,
        "clip_norm": 1.0,
    }
    config.train = {
        "steps": 1300,
        "batch_size": 64,
        "log_every": 50,
        "checkpoint_every": 325,
        "eval_every": 325,
        "ema": {"decay": 0.99},
        "keep": {"last": 2},
    }
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {
        "test/accuracy": {"value": 0.651, "tolerance": 0.03, "source": "this repository; 1,903 images"}
    }
    return config
