r"""The backbone and the training of a small architecture search on 1,797 real handwritten digits.

    offsites image_classification search --experiment experiments/image_classification/search_digits.py \
        --workdir workdirs/search_digits --trials 6 --expand-ratios 1 2 4 --layers 1

Training-aware search as in arXiv 2104.00298, section 3.3, around a network of three stages: each candidate is
trained for 11 epochs at 16 pixels, its train step is timed, and accuracy is weighed against step time and
parameters. The backbone alone, as any experiment:

    offsites train experiments/image_classification/search_digits.py --workdir workdirs/search_digits_backbone

Machine: a laptop; 2.5 minutes on 2 cores that do nothing else, which step times need.
Expect: 0.96 to 1.0 on the 360 test images. There is no validation split, so the search picks by the images
it reports on, and so is the checkpoint kept as best; one image is 0.003, so ranks of close candidates are
luck.
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
            "head_width": 128,
            "dropout_rate": 0.1,
            "stochastic_depth_rate": 0.0,
        },
    }
    config.task = {"label_smoothing": 0.1}
    config.data = {
        "source": "digits",
        "image_size": 16,
        "pad": 1,
        "channels": 1,
        "crop_area": (0.7, 1.0),
        "eval_crop": "whole",
        "flip": False,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "peak": 5e-3, "warmup_steps": 12},
        "weight_decay": 0.02,
        "clip_norm": 1.0,
    }
    config.train = {
        "steps": 120,
        "batch_size": 128,
        "log_every": 20,
        "checkpoint_every": 40,
        "ema": {"decay": 0.9},
        "keep": {"last": 1, "best": "test/accuracy"},
    }
    config.evaluators = {"test": {"split": "test", "pictures": False, "batch_size": 360}}
    config.expected = {}
    return config
