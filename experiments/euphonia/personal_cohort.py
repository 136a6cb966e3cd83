r"""432 speakers personalised in one job: each owns five encoder layers, all share the rest of the base.

    offsites euphonia prepare manifest.jsonl --root recordings --split split.json --like /data/librispeech \
        --output /data/cohort
    offsites train experiments/euphonia/personal_cohort.py --workdir gs://BUCKET/cohort \
        --config.data.path=/data/cohort --config.init_from.path=gs://BUCKET/base

What becomes of a speaker depends on its own recordings alone. A speaker stops when its own loss on the dev
part has not fallen for five evaluations; the others go on.

Data: recordings of up to 448 people (432, padded to a multiple of 32 chips), split by phrase.
Pod: v5e:4x8
Expect: a median word error rate of 4.6 %, from 31 % (Green et al. 2021). Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.cohort("data/cohort", "workdirs/base", members=448))
