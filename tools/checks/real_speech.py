"""Real recordings, from Debian's packages to a recogniser that hears them as a stream, in one command.

In an environment with offsites-jax[speech], where the packages were unpacked to PROMPTS as
experiments/euphonia/real_speech.py says:

    python tools/checks/real_speech.py PROMPTS [--workdir WORKDIR]

Reads the prompts of all languages that are there, trains a small network on 60 English ones, and lets it hear
these 60 and 60 others: whole, and in pieces of a tenth of a second. Prints a line of JSON for each thing that
was checked, and ends with 1 if one of them failed. That it learns 60 recordings by heart shows that training
works; the others it does not understand, after two minutes of one voice.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import score
from offsites_jax.projects.euphonia.commands.corpus import prepare, split
from offsites_jax.projects.euphonia.commands.listening import open_listener, read_samples
from offsites_jax.projects.euphonia.corpora.readers import import_corpus
from offsites_jax.projects.euphonia.decoding.listener import Listener
from offsites_jax.projects.euphonia.decoding.stream import Recognised, finish, recognise, start_stream, step
from offsites_jax.projects.euphonia.manifest import read_manifest
from offsites_jax.projects.euphonia.splits import read_split

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments/euphonia/real_speech.py"
SOUNDS = "usr/share/asterisk/sounds"
MOST_ERRORS = 0.1


class Checks:
    """Collects what held and what did not."""

    def __init__(self) -> None:
        self.failed = 0

    def expect(self, name: str, holds: bool, **details: Any) -> None:
        """Print one result."""
        self.failed += not holds
        print(json.dumps({"name": name, "ok": bool(holds), **details}), flush=True)


def main() -> None:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path)
    options = parser.parse_args()
    if not (options.prompts / SOUNDS).is_dir():
        parser.error(f"{options.prompts / SOUNDS}: no such folder; unpack the packages to {options.prompts}")
    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.workdir or pathlib.Path(temporary)
        read_languages(options.prompts, folder, checks)
        train(folder)
        score_training(folder / "run", checks)
        compare_streams(folder, checks)
    sys.exit(checks.failed > 0)


def read_languages(prompts: pathlib.Path, folder: pathlib.Path, checks: Checks) -> None:
    """A manifest of each voice and rate that was unpacked."""
    for voice in sorted((prompts / SOUNDS).iterdir()):
        language = voice.name.partition("_")[0]
        for encoding in ("g722", "wav"):
            if not any(voice.glob(f"*.{encoding}")):
                continue
            corpus, _ = import_corpus(
                "asterisk", prompts, folder / language / encoding, language=language, encoding=encoding
            )
            narrow = {one.extra.get("bandlimited", False) for one in corpus.utterances}
            rates = {one.sample_rate for one in corpus.utterances}
            checks.expect(
                f"{language}_{encoding}",
                (rates, narrow) == (({16000}, {False}) if encoding == "g722" else ({8000}, {True})),
                utterances=len(corpus.utterances),
                minutes=round(sum(one.duration_s or 0 for one in corpus.utterances) / 60, 1),
                up_to_15_s=sum((one.duration_s or 0) <= 15 for one in corpus.utterances),
                left_out=corpus.counts(),
            )


def train(folder: pathlib.Path) -> None:
    """The commands of the experiment."""
    manifest, drawn = str(folder / "en/g722/manifest.jsonl"), str(folder / "split.json")
    split(manifest, drawn, memorize=60)
    if not (folder / "prepared").exists():
        prepare(manifest, str(folder / "prepared"), split=drawn, pieces=96, kind="bpe", mels=64)
    command = [sys.executable, "-m", "offsites_jax.cli.main", "train", str(EXPERIMENT)]
    settings = ["--workdir", str(folder / "run"), f"--config.data.path={folder / 'prepared'}"]
    subprocess.run([*command, *settings], check=True, stdout=sys.stderr)


def score_training(workdir: pathlib.Path, checks: Checks) -> None:
    """What the run's own evaluation, on whole recordings side by side, says at its end."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    learnt, unheard = (
        [row for row in rows if row["split"] == part][-1]["wer"] for part in ("learnt", "unheard")
    )
    steps = [row for row in rows if row["split"] == "train"]
    minutes = (steps[-1]["time"] - steps[0]["time"]) / 60
    checks.expect("learnt_by_heart", learnt < MOST_ERRORS, wer=round(learnt, 4), minutes=round(minutes, 1))
    checks.expect("unheard_are_not_understood", unheard > 0.5, wer=round(unheard, 4))


def compare_streams(folder: pathlib.Path, checks: Checks) -> None:
    """`offsites euphonia transcribe` and `stream` on each recording, and both against the evaluation."""
    parts = read_split(folder / "split.json").speakers["Allison"]
    rows = {one.utt_id: one for one in read_manifest(folder / "en/g722/manifest.jsonl")}
    whole = open_listener(str(folder / "run"), "", "", "latest", rows=64)
    live = open_listener(str(folder / "run"), "", "", "latest", rows=2)
    for name, part in (("learnt", parts.train), ("unheard", parts.test)):
        sounds = [read_samples(rows[utt].audio, whole.features.sample_rate, 60.0) for utt in part]
        offline = [recognise(whole, samples) for samples in sounds]
        online = [hear(live, samples) for samples in sounds]
        pairs = list(zip(offline, online, strict=True))
        texts = [normalise(rows[utt].text) for utt in part], [normalise(found.text) for found in online]
        checks.expect(
            f"{name}_streams_are_whole_recordings",
            all((a.labels, a.frames) == (b.labels, b.frames) for a, b in pairs),
            different=[utt for utt, (a, b) in zip(part, pairs, strict=True) if a.labels != b.labels],
            log_prob=max(abs(a.alternatives[0].log_prob - b.alternatives[0].log_prob) for a, b in pairs),
            streamed_wer=round(score(*texts, ["Allison"] * len(part), "word").total.rate, 4),
        )


def hear(listener: Listener, samples: Any) -> Recognised:
    """A recording in pieces of a tenth of a second."""
    state, size = start_stream(listener), listener.features.sample_rate // 10
    for start in range(0, len(samples), size):
        state, _ = step(listener, state, samples[start : start + size])
    return finish(listener, state)


if __name__ == "__main__":
    main()
