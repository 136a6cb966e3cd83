r"""CutPaste tunes an EfficientNet-B4 that was pretrained on ImageNet, on MVTec AD.

    offsites train experiments/one_class/cutpaste_b4_mvtec.py:level7-bottle --workdir gs://BUCKET/b4 \
        --config.data.path=MVTEC --config.init_from.path=B4/params.safetensors

Variants: pool (default) and level7, what is scored: the head convolution's 1,792 features, or the 448 of the
last stage; each may name a category, as above. The head alone learns for 10 x 256 steps at 0.03, then
everything for 64 x 256 at 1e-4; statistics of batch norms stay (arXiv 2104.04015, A.4). B4/params.safetensors
is what `offsites import` writes of published weights.

Pod: v5e:2x2
Expect: mean AUC of the 15 categories 96.6 (pool), 97.1 (level7); 94.5 and 96.8 before tuning. Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

VARIANTS = ("pool", "level7")


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    features, category = published.chosen(argument, VARIANTS, published.MVTEC)
    config = ml_collections.ConfigDict(papers.cutpaste_b4(features))
    config.project = "one_class"
    config.data = {"source": "mvtec", "path": "/data/mvtec", "category": category, "image_size": 256}
    config.init_from = {
        "path": "efficientnet_b4/params.safetensors",
        "map": ((r"^(params|batch_stats)/backbone/", r"\1/"),),
        "skip": (r"^(params|batch_stats)/head/",),
    }
    config.evaluators = {"test": {"split": "test"}}
    figures = published.IMAGE_AUC[f"b4_{features}"]
    config.expected = published.expected_of_mvtec(figures, category, 1.0, "table 3")
    return config
