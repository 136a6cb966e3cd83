r"""One speaker of TORGO personalised from a base recogniser.

    offsites euphonia read_corpus torgo /data/torgo --output /data/torgo_manifest
    offsites euphonia prepare /data/torgo_manifest/manifest.jsonl --like /data/librispeech \
        --output /data/torgo_prepared
    offsites train experiments/euphonia/torgo_personal.py --workdir workdirs/torgo \
        --config.data.path=/data/torgo_prepared --config.data.speaker=SPEAKER \
        --config.init_from.path=gs://BUCKET/base

Data: TORGO, free for research: eight speakers with dysarthria, seven without.
Pod: v5e:2x2
Expect: no published figure for this network. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    config = recipes.personal("data/torgo", "workdirs/base")
    return ml_collections.ConfigDict({**config, "expected": {}})
