r"""The base recogniser on LibriSpeech, 960 hours of read books: 122 million parameters, streaming.

    offsites euphonia read_corpus librispeech /data/LibriSpeech --output /data/books
    offsites euphonia prepare /data/books/manifest.jsonl --output /data/librispeech --pieces 4096
    offsites train experiments/euphonia/base_librispeech.py --workdir gs://BUCKET/base \
        --config.data.path=/data/librispeech

Data: openslr.org/12, all training parts; 281,241 utterances, of which those above 16 s are left out.
Pod: v5e:16x16
Expect: no published figure for this network on this data. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.base("data/librispeech", steps=100_000, batch_size=2048))
