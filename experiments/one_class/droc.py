r"""One class against the rest by two stages, as published: rotation and contrastive learning.

    offsites train experiments/one_class/droc.py:rotation-cifar10 --workdir gs://BUCKET/rotation \
        --config.data.path=CIFAR --config.data.category=3
    offsites one_class protocol experiments/one_class/droc.py:da-cifar10 --workdir gs://BUCKET/da_table \
        --overrides data.path=CIFAR --scorers ocsvm kde gde knn

Variants: {rotation, contrastive, da}-{cifar10, cifar100, fmnist, catdog, celeba}; the first is the default.
CIFAR-100 means its 20 coarse classes. ResNet-18 with an eight-layer head, 2,048 epochs of the normal class
(arXiv 2011.02578, with the values of the scripts of google-research/deep_representation_one_class);
`da` is distribution augmentation: four turned copies of each image that count as images of their own.

Pod: v5e:2x2
Expect: the mean over classes of AUC, one-class SVM on pooled features: 91.3, 84.1, 95.8, 86.4 by rotation
and 92.5, 86.5, 94.8, 89.6 with distribution augmentation on CIFAR-10, CIFAR-100, Fashion-MNIST and
Cat-vs-Dog. Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

PRETEXTS = {"rotation": "rotation", "contrastive": "contrastive", "da": "contrastive_da"}
DATA = {  # reader, normal training images, pixels
    "cifar10": ("cifar10", 5_000, 32),
    "cifar100": ("cifar100", 2_500, 32),
    "fmnist": ("fashion_mnist", 6_000, 32),
    "catdog": ("cat_dog", 10_000, 64),
    "celeba": ("celeba", 152_000, 64),  # about; faces of the training partition without glasses
}
VARIANTS = tuple(f"{pretext}-{data}" for pretext in PRETEXTS for data in DATA)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, _ = published.chosen(argument, VARIANTS, ("",))
    name, _, data = variant.partition("-")
    source, images, pixels = DATA[data]
    config = ml_collections.ConfigDict(papers.droc(PRETEXTS[name], images))
    config.project = "one_class"
    config.data = {
        "source": source,
        "path": f"/data/{source}",
        "category": published.CATEGORIES[source][0],
        "image_size": pixels,
        "copies": 4 if name == "da" else 1,
    }
    config.evaluators = {"test": {"split": "test", "scorer": {"name": "ocsvm"}, "batch_size": 256}}
    config.expected = {}
    if found := published.TWO_STAGE.get((PRETEXTS[name], source)):
        mean, spread = found
        config.expected["mean/auc"] = {
            "value": mean,
            "tolerance": 2 * spread,
            "source": f"{published.DROC}; five seeds",
        }
    return config
