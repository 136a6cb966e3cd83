r"""CutPaste against defects of known shapes, drawn on good images of MVTec AD.

    offsites one_class synthesize MVTEC/bottle --output SYNTHETIC/bottle
    offsites train experiments/one_class/cutpaste_synthetic.py --workdir gs://BUCKET/synthetic \
        --config.data.path=SYNTHETIC/bottle

Variants: cutpaste (default), cutout. Digits, squares, ellipses and hearts, filled with a colour or a piece
of a photograph; their sizes are not published (arXiv 2104.04015, section 5.3).

Pod: v5e:2x2
Expect: mean AUC over shapes and categories 98.3 (cutpaste), 81.5 (cutout). Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published

PRETEXTS = {"cutpaste": ("cutpaste", 98.3), "cutout": ("cutout_grey", 81.5)}
VARIANTS = tuple(PRETEXTS)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, _ = published.chosen(argument, VARIANTS, ("",))
    pretext, figure = PRETEXTS[variant]
    config = ml_collections.ConfigDict(papers.cutpaste(pretext))
    config.project = "one_class"
    config.data = {"source": "folder", "path": "/data/synthetic", "image_size": 256}
    config.evaluators = {"test": {"split": "test"}}
    config.expected = {
        "test/auc": {"value": figure, "tolerance": 3.0, "source": f"{published.CUTPASTE}, table 6, mean"}
    }
    return config
