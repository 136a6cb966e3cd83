r"""Training-aware architecture search around EfficientNet-B4, the search that led to EfficientNetV2.

    offsites image_classification search --experiment experiments/image_classification/search_imagenet.py \
        --workdir gs://BUCKET/search_imagenet

arXiv 2104.00298, section 3.3: up to 1000 networks of the size of EfficientNet-B4, drawn at random, each
trained for about 10 epochs on smaller images; accuracy x (step time)^-0.07 x (parameters)^-0.05 ranks them.
The job's defaults are the published ones: MBConv or Fused-MBConv, kernels 3 and 5, expansions 1, 4 and 6.
The paper does not print the image size and the recipe of these trainings, nor how many layers a stage may
have: 192 pixels, a cosine over the recipe of section 4, and two layers more or fewer are ours. Accuracy is
that on 2 % of the training images, held back. Start the same command on every host; start it again to go
on. The backbone alone:

    offsites train experiments/image_classification/search_imagenet.py --workdir gs://BUCKET/b4_192px

Data: TFDS imagenet2012 prepared with --file_format=array_record.
Pod: v5e:4x4
Cost: 85 PFLOP of training for a network like the backbone; at a fifth of the chips' peak, and with compiling,
4 minutes for each, or about 1,100 chip-hours for 1000. Computed, not measured.
Expect: nothing was measured here.
"""

import ml_collections

EPOCH = 0.98 * 1_281_167 / 4096


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.project = "image_classification"

    config.model = {
        "name": "efficientnet_b4",
        "num_classes": 1000,
        "overrides": {
            "norm": {"statistics": "group", "group_size": 1024, "momentum": 0.9},
            "dropout_rate": 0.2,
        },
    }
    config.task = {"label_smoothing": 0.1, "l2": 1e-5}
    config.data = {
        "source": "tfds",
        "name": "imagenet2012",
        "train_split": "train[2%:]",
        "image_size": 192,
        "loading": {"num_workers": 16},
    }
    config.optimizer = {
        "name": "rmsprop_tf",
        "learning_rate": {"name": "cosine", "peak": 0.256, "warmup_steps": int(EPOCH)},
    }
    config.train = {
        "steps": int(10 * EPOCH),
        "batch_size": 4096,
        "log_every": 100,
        "checkpoint_every": 1000,
        "ema": {"decay": 0.999},
        "keep": {"last": 1, "best": "minival/accuracy"},
    }
    config.mesh = {"data": -1}
    config.sharding = {"rules": ((".*", "replicated"),)}
    config.evaluators = {"minival": {"split": "train[:2%]", "pictures": False}}
    config.expected = {}
    return config
