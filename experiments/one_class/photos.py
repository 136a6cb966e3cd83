"""Photos of good parts, as `offsites one_class fit DIR --workdir W` trains on them, to be changed at will.

    offsites train experiments/one_class/photos.py --workdir workdirs/parts --config.data.path=PHOTOS
    offsites one_class fit_scorer workdirs/parts
    offsites one_class score workdirs/parts NEW_PHOTOS --output workdirs/parts/scores

PHOTOS holds good photos, or `train/good` and perhaps `test/<kind>` with masks in `ground_truth/<kind>`. A
fifth of the good ones is held out to set the threshold.

Machine: a laptop, minutes on 2 cores.
Expect: a loss well below 1.1, which is guessing; how good the scores are depends on the photos. Look at the
report, and put defects you know into `test/` to have them counted.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes.photos import photos


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(photos("PHOTOS"))
