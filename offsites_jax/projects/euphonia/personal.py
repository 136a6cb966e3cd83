"""After a cohort has been trained: every speaker's best layers as a file, and what they changed."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from offsites_jax.data.pipeline import eval_batches
from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.score import ErrorCounts, count_errors
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia import recipes
from offsites_jax.projects.euphonia.cohort import COHORT, PERSONAL, cohort_names, members_of
from offsites_jax.projects.euphonia.data import create_pipeline
from offsites_jax.projects.euphonia.deltas import FOLDER, About, base_digest, write_delta
from offsites_jax.projects.euphonia.loading import BASE, load
from offsites_jax.projects.euphonia.prepared import Entry, read_prepared
from offsites_jax.projects.euphonia.utterances import open_prepared
from offsites_jax.train.config import Experiment, plain, resolve
from offsites_jax.train.contract import Variables
from offsites_jax.train.saved import SavedVariables
from offsites_jax.train.state import unflatten
from offsites_jax.train.workdir import read_experiment


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What personalising did for one speaker.

    Attributes:
      speaker: who.
      utterances: of the test part.
      base: errors of the base there.
      personal: errors with the speaker's own layers.

    """

    speaker: str
    utterances: int
    base: ErrorCounts
    personal: ErrorCounts


def write_speakers(workdir: epath.PathLike) -> list[str]:
    """Writes a delta file for every speaker of a trained cohort; returns their names.

    A speaker whose dev loss never fell has a delta of zeros: its recogniser is the base.
    """
    saved = SavedVariables(workdir)
    experiment = resolve(saved.meta["config"])
    prefixes = (f"{COHORT}/", f"params/{BASE}/")
    wanted = {name: leaf for name, leaf in saved.leaves.items() if name.startswith(prefixes)}
    variables = unflatten(saved.read(wanted))
    digest, cohort = base_digest(variables["params"][BASE]), variables[COHORT]
    names = cohort_names(experiment)
    for place, name in enumerate(names):
        delta = jax.tree.map(lambda leaf, place=place: leaf[place], cohort[PERSONAL])
        scores = {"dev_nll": float(cohort["best"][place]), "skipped_steps": float(cohort["skipped"][place])}
        write_delta(epath.Path(workdir) / FOLDER, About(name, digest, saved.step, scores), delta)
    return list(names)


def outcomes(workdir: epath.PathLike, split: str = "test") -> Iterator[Outcome]:
    """Errors of base and personal recogniser on every speaker's own utterances.

    Args:
      workdir: of a cohort whose speakers are written.
      split: part of the corpus; phrases in it were never trained on.

    """
    base = load(workdir)
    predict = jax.jit(base.task.predict)
    for name in cohort_names(base.experiment):
        single = of_one(base.experiment, name)
        own = load(workdir, name)
        truth, before = recognize(single, split, predict, base.variables)
        _, after = recognize(single, split, predict, own.variables)
        yield Outcome(name, len(truth), count_errors(truth, before), count_errors(truth, after))


def of_one(experiment: Experiment, member: str) -> Experiment:
    """The experiment of one model that reads what is of one member of a cohort; of all speakers for ""."""
    whose = {one.name: one.speaker for one in members_of(experiment.task, experiment.data)}
    raw = dict(experiment.raw)
    raw["task"] = {**raw["task"], "members": 0}
    alone = {"speaker": whose.get(member, member), "speakers": (), "train_utterances": ()}
    raw["data"] = {**raw["data"], **alone}
    raw["optimizer"] = {**raw["optimizer"], "members": False}
    raw["train"] = {**raw["train"], "batch_size": experiment.task.utterances}
    raw |= {"sharding": {}, "init_from": None, "evaluators": {}, "mesh": {"data": 1}}
    return resolve(raw)


def recognize(
    experiment: Experiment,
    split: str,
    predict: Callable[[Variables, Mapping[str, Any]], Mapping[str, Any]],
    variables: Variables,
) -> tuple[list[str], list[str]]:
    """References and what was recognised, normalised alike, of a part of the corpus."""
    prepared = open_prepared(experiment.data, experiment.model.vocabulary)
    size, loading = experiment.train.batch_size, experiment.data.loading
    pipeline = create_pipeline(experiment, split, train=False)
    found: list[tuple[Entry, str]] = []
    with eval_batches(pipeline, batch_size=size, shard=(0, 1), loading=loading) as batches:
        for batch in batches:
            said = predict(variables, {name: batch[name] for name in ("waveform", "sample_count")})
            rows = zip(np.asarray(said["hypothesis"]), np.asarray(said["hypothesis_count"]), strict=True)
            for (labels, count), index, real in zip(rows, batch["index"], batch["mask"], strict=True):
                if real:
                    text = prepared.tokenizer.decode(labels[:count].tolist())
                    found.append((prepared.entries[int(index)], normalise(text)))
    return [entry.text for entry, _ in found], [text for _, text in found]


def cohort_experiment(
    corpus: str,
    base: str,
    *,
    speakers: Sequence[str],
    steps: int,
    eval_every: int,
    learning_rate: float,
    task: Mapping[str, Any],
) -> Experiment:
    """The experiment that personalises speakers of a corpus from a run of a base model.

    Network and frontend are the base's. Rows are padded to a multiple of the devices; batches have room for
    the longest utterance there is.

    Raises:
      UserError: no such run or corpus, or they do not go together.

    """
    before = read_experiment(base)
    prepared = read_prepared(corpus)
    names = tuple(speakers) or prepared.speakers()
    members = -(-len(names) // jax.device_count()) * jax.device_count()
    chosen = [entry for entry in prepared.entries if entry.speaker in names]
    if not chosen:
        raise UserError(f"--speakers: {corpus} has none of them; it has {len(prepared.speakers())} others")
    longest = max(entry.samples for entry in chosen) / prepared.features.sample_rate
    labels = max(len(prepared.tokenizer.encode(entry.text)) for entry in chosen)
    rate = {"name": "constant", "peak": learning_rate, "warmup_steps": min(50, steps // 2)}
    recipe = recipes.cohort(corpus, base, members=members, steps=steps)
    data = before.raw.get("data", {})
    return resolve(
        plain(
            {
                **recipe,
                "model": before.raw["model"],
                "task": {**recipe["task"], "dither": before.task.dither, **task},
                "data": {
                    "path": corpus,
                    "speakers": list(names),
                    "max_seconds": math.ceil(10 * longest) / 10,
                    "max_labels": max(labels, 1),
                    **{name: data[name] for name in ("features", "loading") if name in data},
                },
                "optimizer": {**recipe["optimizer"], "learning_rate": rate},
                "train": {
                    **recipe["train"],
                    "steps": steps,
                    "eval_every": eval_every,
                    "checkpoint_every": eval_every,
                    "log_every": min(50, eval_every),
                },
                "mesh": {"fsdp": 1, "data": -1},
            }
        )
    )


def summary(found: Sequence[Outcome]) -> dict[str, Any]:
    """Word error rates by speaker, and their medians."""
    return {
        "median": {
            "base": float(np.median([one.base.rate for one in found])),
            "personal": float(np.median([one.personal.rate for one in found])),
        },
        "speakers": {
            one.speaker: {
                "utterances": one.utterances,
                "base": one.base.rate,
                "personal": one.personal.rate,
                "words": one.base.reference,
            }
            for one in found
        },
    }
