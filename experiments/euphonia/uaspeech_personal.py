r"""One speaker of UASpeech personalised from a base recogniser.

    offsites euphonia read_corpus uaspeech /data/uaspeech --output /data/uaspeech_manifest
    offsites euphonia prepare /data/uaspeech_manifest/manifest.jsonl --like /data/librispeech \
        --output /data/uaspeech_prepared
    offsites train experiments/euphonia/uaspeech_personal.py --workdir workdirs/uaspeech \
        --config.data.path=/data/uaspeech_prepared --config.data.speaker=SPEAKER \
        --config.init_from.path=gs://BUCKET/base

Data: UASpeech, licence needed: fifteen speakers with cerebral palsy, single words.
Pod: v5e:2x2
Expect: no published figure for this network. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    config = recipes.personal("data/uaspeech", "workdirs/base")
    return ml_collections.ConfigDict({**config, "expected": {}})
