"""Defects on real textures: 3-way CutPaste on windows of brick, grass or gravel.

    offsites train experiments/one_class/textures.py:gravel --workdir workdirs/gravel
    offsites one_class localize workdirs/gravel --split tiles --output workdirs/gravel/tiles

Variants: brick (default), grass, gravel. Data: the pictures of scikit-image, 512 x 512 pixels, grey; the left
320 columns are trained on, the right 192 tested. Half of 600 test windows of 32 pixels have a square or an
ellipse of 6 to 13 pixels, of one grey or of a photograph: nothing that CutPaste draws.

Machine: a laptop, minutes on 2 cores that do nothing else.
Expect: see the README for what was measured. It shows pretext, scorer and heat maps at work on textures that
are real and defects that are drawn; it says nothing about MVTec AD.
"""

import ml_collections

from offsites_jax.projects.one_class.photo_recipe import PhotoSettings, small_cutpaste
from offsites_jax.projects.one_class.published import CATEGORIES, chosen

VARIANTS = CATEGORIES["textures"]


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    texture, _ = chosen(argument, VARIANTS, ("",))
    config = ml_collections.ConfigDict(small_cutpaste(PhotoSettings(image_size=32, window=0)))
    config.data = {"source": "textures", "category": texture, "image_size": 32}
    config.train.checkpoint_every = 400
    config.mesh = {"data": 1}
    config.evaluators = {"test": {"split": "test", "batch_size": 64, "table": True}}
    config.expected = {}
    return config
