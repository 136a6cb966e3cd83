r"""What CutPaste depends on: learning rate, length, colour jitter and the size of the patch, on MVTec AD.

    offsites one_class protocol experiments/one_class/cutpaste_sweep.py:jitter0.3 \
        --workdir gs://BUCKET/jitter0.3 --overrides data.path=MVTEC
    offsites train experiments/one_class/cutpaste_sweep.py:epochs128-bottle --workdir gs://BUCKET/short \
        --config.data.path=MVTEC

Variants: lr{0.1, 0.03, 0.01, 0.003}, epochs{128, 192, 256, 320, 384} of 256 steps, jitter{0, 0.1, 0.2, 0.3},
area{0.1, 0.15, 0.2, 0.3} (largest share of the image), of 3-way CutPaste; each may name a category.

Pod: v5e:2x2
Expect: mean AUC 95.4, 95.0, 95.2, 95.5, 94.8 by epochs (arXiv 2104.04015, table 7). Not run here.
"""

import re

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

LENGTHS = {"epochs128": 95.4, "epochs192": 95.0, "epochs256": 95.2, "epochs320": 95.5, "epochs384": 94.8}
VARIANTS = (
    "lr0.1", "lr0.03", "lr0.01", "lr0.003",
    *LENGTHS,
    "jitter0", "jitter0.1", "jitter0.2", "jitter0.3",
    "area0.1", "area0.15", "area0.2", "area0.3",
)  # fmt: skip


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, category = published.chosen(argument, VARIANTS, published.MVTEC)
    what, number = re.fullmatch(r"([a-z]+)([\d.]+)", variant).groups()
    value = float(number)
    jitter = value if what == "jitter" else 0.1
    config = ml_collections.ConfigDict(papers.cutpaste("cutpaste_3way", jitter))
    config.project = "one_class"
    if what == "lr":
        config.optimizer.learning_rate.peak = value
    if what == "epochs":
        config.train.steps = int(value) * papers.CUTPASTE_EPOCH
    if what == "area":
        config.task.pretext.patch = {"area": (0.02, value)}
    config.data = {"source": "mvtec", "path": "/data/mvtec", "category": category, "image_size": 256}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {}
    if variant in LENGTHS:
        figures = {"mean": LENGTHS[variant]}
        config.expected = published.expected_of_mvtec(figures, category, 2.0, "table 7")
    return config
