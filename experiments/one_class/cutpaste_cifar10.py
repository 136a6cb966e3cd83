r"""CutPaste where it does not help: one class of CIFAR-10 against the rest.

    offsites one_class protocol experiments/one_class/cutpaste_cifar10.py --workdir gs://BUCKET/cifar10 \
        --overrides data.path=CIFAR
    offsites train experiments/one_class/cutpaste_cifar10.py --workdir gs://BUCKET/cifar10_0 \
        --config.data.path=CIFAR

Variants: cutpaste (default), cutout. The paper gives the figures and no recipe; this is that of MVTec AD
at 32 pixels.

Pod: v5e:2x2
Expect: mean AUC of the ten classes 69.4 (cutpaste), 60.2 (cutout); rotation prediction has 91.3.
Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

PRETEXTS = {"cutpaste": ("cutpaste", 69.4), "cutout": ("cutout_grey", 60.2)}
VARIANTS = tuple(PRETEXTS)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, _ = published.chosen(argument, VARIANTS, ("",))
    pretext, figure = PRETEXTS[variant]
    config = ml_collections.ConfigDict(papers.cutpaste(pretext))
    config.project = "one_class"
    config.data = {"source": "cifar10", "path": "/data/cifar10", "category": "0", "image_size": 32}
    config.evaluators = {"test": {"split": "test", "batch_size": 256}}
    config.expected = {
        "mean/auc": {"value": figure, "tolerance": 3.0, "source": f"{published.CUTPASTE}, section 5.4"}
    }
    return config
