r"""Defects on real textures: 3-way CutPaste on windows of brick, grass or gravel.

    offsites train experiments/one_class/textures.py:gravel --workdir workdirs/gravel
    offsites one_class localize workdirs/gravel --split tiles --output workdirs/gravel/tiles
    offsites one_class protocol experiments/one_class/textures.py --workdir workdirs/textures \
        --seeds 0 1 2 --scorers gde kde knn ocsvm --raw-pixels --untrained

Variants: brick (default), grass, gravel. Data: the pictures of scikit-image, 512 x 512 pixels, grey; the left
320 columns are trained on, the right 192 tested. Half of 600 test windows of 32 pixels have a square or an
ellipse of 6 to 13 pixels, of one grey or of a photograph: nothing that CutPaste draws.

Machine: a laptop. One run took 350 s of train steps on half of a busy core.
Expect: AUC of 600 windows by a Gaussian of the features, seed 0: brick 98.5, grass 85.5, gravel 95.4 %,
against 96.4, 51.8, 78.5 of raw pixels and 91.4, 57.3, 64.0 of the network before training; pixel AUC of 12
tiles of 128 pixels 97.6, 82.6 and 83.3. Other seeds were not trained. It shows pretext, scorer and heat maps
at work on textures that are real and defects that are drawn; it says nothing about MVTec AD.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes.photos import PhotoSettings, small_cutpaste
from offsites_jax.projects.one_class.recipes.published import CATEGORIES, chosen

VARIANTS = CATEGORIES["textures"]
MEASURED = {"brick": 98.5, "grass": 85.5, "gravel": 95.4}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    texture, _ = chosen(argument, VARIANTS, ("",))
    config = ml_collections.ConfigDict(small_cutpaste(PhotoSettings(image_size=32, window=0)))
    config.data = {"source": "textures", "category": texture, "image_size": 32}
    config.train.checkpoint_every = 400
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test", "batch_size": 64, "table": True}}
    source, tolerance = "this repository, seed 0", 2.0
    figures = {"test/auc": MEASURED[texture], **{f"{name}/auc": auc for name, auc in MEASURED.items()}}
    config.expected = {
        name: {"value": auc, "tolerance": tolerance, "source": source} for name, auc in figures.items()
    }
    return config
