"""EfficientNetV2-S on ImageNet-1k by progressive learning, written out in full.

    offsites train experiments/image_classification/imagenet_v2_s.py --workdir gs://BUCKET/imagenet_v2_s

Recipe of arXiv 2104.00298, section 4 and table 6, as google/automl runs it: RMSProp, 350 epochs of
1,281,167 images in batches of 4096, four stages of growing images, RandAugment (magnitude 5 to 15) and
dropout (0.1 to 0.3). It trains on all images, and the newest checkpoints stay. The other sizes are in
imagenet_v2.py, and so is a variant that holds images back to choose by; this is its variant s.

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: the published 83.9 % top-1 at 384 pixels (table 7), after 7.1 hours on 32 cores of TPU v3 (as
remembered, not checked). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.progressive import Regularisation, progressive_stages

EPOCH = 1_281_167 / 4096


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "efficientnet_v2_s",
        "num_classes": 1000,
        "overrides": {"norm": {"statistics": "group", "group_size": 1024}},
    }
    config.task = {"label_smoothing": 0.1, "l2": 1e-5}
    config.data = {
        "source": "tfds",
        "name": "imagenet2012",
        "loading": {"num_workers": 16},
        "image_size": 300,
        "eval_size": 384,
        "augment": "randaugment",
        # Other labels: `offsites eval --config.evaluators.real.split=real`, where they are prepared.
        "splits": {
            "minival": {"split": "train[:2%]"},
            "real": {
                "name": "imagenet2012_real",
                "split": "validation",
                "label_key": "real_label",
                "max_labels": 32,
            },
            "v2": {"name": "imagenet_v2/matched-frequency", "split": "test"},
        },
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
        "eval_every": 5000,
        "ema": {"decay": 0.9999},
        "keep": {"last": 3},
    }
    # Weak augmentation and dropout on small images, strong on large ones (table 6).
    config.stages = progressive_stages((128, 300), Regularisation(magnitude=(5, 15), dropout=(0.1, 0.3)))
    config.mesh = {"data": -1}
    config.sharding = {"rules": ((".*", "replicated"),)}
    config.evaluators = {"validation": {"split": "validation", "pictures": False}}
    config.expected = {
        "validation/accuracy": {"value": 0.839, "tolerance": 0.003, "source": "arXiv 2104.00298, table 7"}
    }
    return config
