r"""One speaker's own recogniser: five of eight encoder layers learn from 300 phrases or more, the rest stays.

    offsites euphonia prepare manifest.jsonl --root recordings --split split.json --like /data/librispeech \
        --output /data/speaker
    offsites train experiments/euphonia/personal_bottom5.py --workdir workdirs/speaker \
        --config.data.path=/data/speaker --config.init_from.path=gs://BUCKET/base

Data: recordings of one person, split by phrase (`offsites euphonia split`).
Pod: v5e:2x2
Expect: a median word error rate of 4.6 % over 432 speakers, from 31 % (Green et al. 2021). Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.personal("data/speaker", "workdirs/base"))
