r"""How evenly contrastive features lie on the sphere, with and without distribution augmentation.

    offsites train experiments/one_class/uniformity.py:digits-da-16 --workdir workdirs/even/da-16
    offsites train experiments/one_class/uniformity.py:digits-plain-16 --workdir workdirs/even/plain-16
    offsites one_class uniformity workdirs/even/da-16 workdirs/even/plain-16 --output workdirs/even

Variants: cifar10-{da, plain}-{32, 64, 128, 256, 512}, the first of them the default, and
digits-{da, plain}-{16, 32, 64}. Every size sees each image as often. `cifar10` is the recipe of droc.py;
`digits` is a small network on the zeros of scikit-learn.

Pod: v5e:2x2 for cifar10; digits run on a laptop, a minute each.
Expect: a smaller distance to the uniform law, which is bad for one-class classification, with larger batches
(arXiv 2011.02578, section 3), and a larger one with distribution augmentation. Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

KINDS = {"da": "contrastive_da", "plain": "contrastive"}
SIZES = {"cifar10": (32, 64, 128, 256, 512), "digits": (16, 32, 64)}
VARIANTS = tuple(f"{data}-{kind}-{size}" for data in SIZES for kind in KINDS for size in SIZES[data])
IMAGES = {"digits": 88, "cifar10": 5_000}
DIGITS_EPOCHS = 60


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, _ = published.chosen(argument, VARIANTS, ("",))
    source, kind, size = variant.split("-")
    config = ml_collections.ConfigDict(papers.droc(KINDS[kind], IMAGES[source]))
    config.project = "one_class"
    copies = 4 if kind == "da" else 1
    epoch = copies * IMAGES[source] // int(size)
    epochs = papers.DROC_EPOCHS if source == "cifar10" else DIGITS_EPOCHS
    config.train = {"steps": epochs * epoch, "batch_size": int(size)}
    config.optimizer.learning_rate.every = epoch
    config.data = {"source": source, "category": "0", "image_size": 32, "copies": copies}
    if source == "cifar10":
        config.data.path = "/data/cifar10"
    else:
        config.model = {
            "name": "resnet_10",
            "width": 0.25,
            "head": (64, 64),
            "overrides": {"depths": (1, 1), "stem_width": 16},
        }
        config.data.image_size = 16
        config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test", "batch_size": 128}}
    config.expected = {}
    return config
