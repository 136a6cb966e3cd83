r"""One speaker of the Speech Accessibility Project personalised from a base recogniser.

    offsites euphonia read_corpus speech_accessibility /data/sap --output /data/sap_manifest
    offsites euphonia prepare /data/sap_manifest/manifest.jsonl --like /data/librispeech \
        --output /data/sap_prepared
    offsites train experiments/euphonia/sap_personal.py --workdir workdirs/sap \
        --config.data.path=/data/sap_prepared --config.data.speaker=SPEAKER \
        --config.init_from.path=gs://BUCKET/base

Data: the project's archives, agreement needed.
Pod: v5e:2x2
Expect: no published figure for this network. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    config = recipes.personal("data/sap", "workdirs/base")
    return ml_collections.ConfigDict({**config, "expected": {}})
