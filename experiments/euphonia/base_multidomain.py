r"""The base recogniser on typical speech of many domains and conditions, from manifests of your own.

    offsites euphonia prepare manifest.jsonl --root /data/speech --output /data/multidomain --pieces 4096
    offsites train experiments/euphonia/base_multidomain.py --workdir gs://BUCKET/base \
        --config.data.path=/data/multidomain

Green et al. 2021 start from such a model (their data is private); noise, rooms and gain are added on the fly.

Data: one manifest of all corpora; how often an utterance stands there is its weight.
Pod: v5e:16x16
Expect: no published figure. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.base("data/multidomain", steps=200_000))
