"""EfficientNetV2-S on ImageNet-1k by progressive learning, without RandAugment.

    offsites train experiments/image_classification/imagenet_v2_s.py --workdir gs://BUCKET/imagenet_v2_s

Recipe of arXiv 2104.00298, section 4 and table 6, as google/automl runs it: RMSProp, 350 epochs of 1,281,167
images in batches of 4096, four stages of growing images and dropout. RandAugment (magnitude 5 to 15 over the
stages) is not part of this package yet, so this is less regularised than the published run.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Expect: below the published 83.9 % top-1, which needs RandAugment; nothing was measured here.
"""

import ml_collections

EPOCH = 1_281_167 / 4096


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "efficientnet_v2_s",
        "num_classes": 1000,
        "overrides": {"norm": {"statistics": "device"}},
    }
    config.task = {"label_smoothing": 0.1, "l2": 1e-5}
    config.data = {
        "source": "tfds",
        "name": "imagenet2012",
        "image_size": 300,
        "loading": {"num_workers": 16},
    }
    config.optimizer = {
        "name": "rmsprop_tf",
        "learning_rate": {
            "name": "exponential",
            "peak": 0.256,
            "warmup_steps": int(5 * EPOCH),
            "factor": 0.97,
            "period": 2.4 * EPOCH,
            "staircase": True,
        },
    }
    config.train = {
        "steps": int(350 * EPOCH),
        "batch_size": 4096,
        "log_every": 100,
        "checkpoint_every": 2000,
        "eval_every": 2000,
        "ema": {"decay": 0.9999},
        "keep": {"last": 3, "best": "validation/accuracy"},
    }
    config.stages = tuple(
        {
            "name": f"{size}px",
            "until": until,
            "data": {"image_size": size},
            "model": {"overrides": {"dropout_rate": dropout}},
        }
        for size, until, dropout in ((128, 0.25, 0.1), (185, 0.5, 0.167), (242, 0.75, 0.233), (300, 0, 0.3))
    )
    config.mesh = {"data": -1}
    config.sharding = {"rules": ((".*", "replicated"),)}
    config.evaluators = {"validation": {"split": "validation", "pictures": False}}
    config.expected = {
        "validation/accuracy": {"value": 0.839, "tolerance": 0.003, "source": "arXiv 2104.00298, table 7"}
    }
    return config
