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

Machine: a laptop; 600 steps took 6.3 minutes of processor time, so 1,500 are some 16 minutes of one core.
Expect: the aim is fewer than 10 % word errors of the 60; of the unheard near 100 %, or more: two minutes of
one voice teach nobody English. Not reached in 600 steps with noise added to the sound: 56 % greedily, 18 %
with a beam of 8, and 133 % of the unheard. Streams gave the labels of whole recordings, on all 120.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(recipes.memorize("workdirs/prompts/prepared", vocabulary=96, steps=1500))
