r"""Real recordings: sixty telephone prompts of one voice, learnt by heart in minutes.

    apt-get download asterisk-core-sounds-en asterisk-core-sounds-en-g722
    for package in asterisk-core-sounds-*.deb; do dpkg -x "$package" prompts; done
    offsites euphonia read_corpus asterisk prompts --output workdirs/prompts
    offsites euphonia split workdirs/prompts/manifest.jsonl --output workdirs/prompts/split.json --memorize 60
    offsites euphonia prepare workdirs/prompts/manifest.jsonl --split workdirs/prompts/split.json \
        --pieces 96 --kind bpe --mels 64 --output workdirs/prompts/prepared
    offsites train experiments/euphonia/real_speech.py --workdir workdirs/prompts/run

`python tools/checks/real_speech.py prompts` does all but the first two, and compares streams with whole
recordings.

Data: Asterisk's core sounds 1.6.1 in English, spoken by Allison Smith, CC-BY-SA 3.0: 551 prompts with words,
24 minutes, G.722 at 16 kHz. In order of their names, the first 60 of 1 to 4 seconds train (2.4 minutes), and
the next 60 with other words test. The network of `small_cpu.py`, half as wide.

Machine: a laptop; 14 minutes of processor time, 18 of 2 cores that other programs used as well.
Expect: no word errors of the 60, and 98 % of the unheard: two minutes of one voice teach nobody English.
Streams gave the labels and frames of whole recordings, on all 120. One seed.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.memorize("workdirs/prompts/prepared", vocabulary=96, steps=1500))
