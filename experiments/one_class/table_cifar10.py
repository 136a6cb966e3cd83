r"""Ten classes of CIFAR-10 with five seeds, fifty trainings as one program: a table of droc.py in one job.

    offsites one_class protocol experiments/one_class/droc.py:rotation-cifar10 --workdir gs://BUCKET/table \
        --overrides data.path=CIFAR --scorers ocsvm kde gde knn --stacked
    offsites plan experiments/one_class/table_cifar10.py --topology v5e:2x2
    offsites train experiments/one_class/table_cifar10.py --workdir gs://BUCKET/stack

Variants: rotation (default), contrastive, da. The first command trains what stands here, then writes each
member out as the checkpoint of a run of its own, and scores it; this file is for planning that training, and
trains it without the rest.
Parameters have a leading axis of members, split over the chips, 13 on each of four (two of the 52 are
repetitions); a chip takes its members one after the other. The step moves no parameter, gradient or statistic
between chips: what is summed over them are the figures of the log.

Cost: 0.56 G multiply-adds a row, 256 rows a member (rotation; 64 for the others): 2.2e13 multiply-adds a step
with the backward pass; 159,744 steps (319,488 contrastive, 1,280,000 da). By the plan at least 56 ms a step
for rotation, or 2.5 hours of four v5e; 7 at 35 % utilisation, 4 contrastive, 14 da.
Pod: v5e:2x2
Expect: the mean over classes of AUC by a one-class SVM 91.3 (rotation), 92.5 (da), standard deviation over
seeds 0.3 and 0.6 (arXiv 2011.02578). Not run here.
"""

import ml_collections

from offsites_jax.projects.one_class.recipes import papers, published
from offsites_jax.projects.one_class.stacking.experiment import stacked

PRETEXTS = {"rotation": "rotation", "contrastive": "contrastive", "da": "contrastive_da"}
VARIANTS = tuple(PRETEXTS)
IMAGES = 5_000  # of a class
SEEDS = range(5)
CHIPS = 4


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant, _ = published.chosen(argument, VARIANTS, ("",))
    data = {
        "source": "cifar10",
        "path": "/data/cifar10",
        "image_size": 32,
        "copies": 4 if variant == "da" else 1,
    }
    alone = {**papers.droc(PRETEXTS[variant], IMAGES), "project": "one_class", "data": data}
    members = [(category, seed) for seed in SEEDS for category in published.CATEGORIES["cifar10"]]
    return ml_collections.ConfigDict(stacked(alone, members, CHIPS))
