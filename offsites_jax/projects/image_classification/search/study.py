"""A search: candidates trained one after another by the one trainer, each recorded as a line of JSON.

The folder of a search holds `search.json` (what is searched), `trials.jsonl` (one line a trial), a workdir
for each training under `trials/`, and the report. A search that was killed goes on when it is started again:
trials stay as recorded, the training under way goes on from its checkpoint, and the same candidates follow.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
from etils import epath

from offsites_jax.errors import DamagedDataError, NonFiniteLossError, UserError
from offsites_jax.parallel.mesh import create_mesh
from offsites_jax.projects.image_classification.model import create_classifier
from offsites_jax.projects.image_classification.search import measure
from offsites_jax.projects.image_classification.search import sampler as samplers
from offsites_jax.projects.image_classification.search.reward import Reward
from offsites_jax.projects.image_classification.search.space import Backbone, Space, space_around
from offsites_jax.projects.image_classification.search.trials import Trial, agree, read_trials, write_trials
from offsites_jax.train.config import Experiment, leaves, merged, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.restore import evaluate
from offsites_jax.train.workdir import CHECKPOINTS, COMPILE_CACHE, write_json

TRIALS, SEARCH = "trials.jsonl", "search.json"

# What may change when a search goes on: it decides neither accuracy nor step time.
HARMLESS = ("experiment.data.loading", "experiment.train.log_every", "experiment.train.checkpoint_every")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is searched, and how.

    Attributes:
      metric: what the evaluators call accuracy, as "<evaluator>/<metric>".
      sampler: random, evolution or reinforce.
      seed: of the sampler; trainings take theirs from the experiment.
      kernel_sizes, expand_ratios, layers: of the space, see `space_around`.
      step_weight, params_weight: powers of the reward.
      timed_steps: steps whose median is the step time.
      topology: TPUs for which to compile the step, instead of measuring it; empty to measure.
      evolution: population and tournament, where the sampler is evolution.

    """

    metric: str
    sampler: samplers.Name = "random"
    seed: int = 0
    kernel_sizes: tuple[int, ...] = (3, 5)
    expand_ratios: tuple[int, ...] = (1, 4, 6)
    layers: int = 2
    step_weight: float = -0.07
    params_weight: float = -0.05
    timed_steps: int = 20
    topology: str = ""
    evolution: samplers.Evolution = samplers.Evolution()

    def __post_init__(self) -> None:
        if self.timed_steps < 1:
            raise UserError(f"--timed-steps: {self.timed_steps}; must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Study:
    """A search in its folder.

    Attributes:
      experiment: trains the backbone; candidates are this with other blocks.
      settings: what is searched, and how.
      folder: of the search.
      backbone: the network to start from.
      space: the networks to choose from.

    """

    experiment: Experiment
    settings: Settings
    folder: epath.Path
    backbone: Backbone
    space: Space

    def candidate(self, blocks: Sequence[str]) -> Experiment:
        """The experiment with the network of these blocks."""
        changes = {"model": {"overrides": self.backbone.overrides(blocks)}}
        return resolve(merged(self.experiment.raw, changes))

    def workdir(self, index: int) -> epath.Path:
        """Where a trial trains."""
        return self.folder / "trials" / f"{index:04d}"


def open_study(experiment: Experiment, workdir: epath.PathLike, settings: Settings) -> Study:
    """Makes the folder of a search, or accepts one that holds the same search.

    Raises:
      UserError: the experiment's model has no stages, or another search lives there.

    """
    folder = epath.Path(workdir)
    backbone = Backbone.of(create_classifier(experiment.model, jnp.dtype("float32")))
    space = space_around(
        backbone.stages,
        kernel_sizes=settings.kernel_sizes,
        expand_ratios=settings.expand_ratios,
        layers=settings.layers,
    )
    wanted = {
        "settings": msgspec.to_builtins(settings),
        "experiment": experiment.raw,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    if (folder / SEARCH).exists():
        check_same_search(folder, wanted)
    elif jax.process_index() == 0:
        write_json(folder / SEARCH, wanted)
    return Study(experiment, settings, folder, backbone, space)


def check_same_search(folder: epath.Path, wanted: Mapping[str, Any]) -> None:
    """Compares `search.json` with what is wanted now; step times of other devices would not compare.

    Raises:
      UserError: something differs that a search may not change.
      DamagedDataError: the file is no JSON.

    """
    try:
        found = json.loads((folder / SEARCH).read_text())
    except json.JSONDecodeError as error:
        raise DamagedDataError(f"{folder / SEARCH}: not valid JSON ({error}); start anew elsewhere") from None
    before, now = leaves(found), leaves(json.loads(json.dumps(wanted)))
    changed = [
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith(HARMLESS)
    ]
    if changed:
        raise UserError(
            f"{folder}: holds another search ({'; '.join(changed)}); "
            "choose another --workdir or set these back"
        )


def run_study(
    study: Study, trials: int, after: Callable[[list[Trial]], None] = lambda rows: None
) -> list[Trial]:
    """Tries candidates until `trials` are recorded besides the backbone; returns all.

    Args:
      study: from `open_study`.
      trials: how many candidates in all, those recorded before included.
      after: told all trials after each new one, on the first process.

    Raises:
      UserError: the backbone itself cannot be trained, or the space holds fewer networks.
      Preempted: asked to leave; the same search goes on when started again.

    """
    if trials >= study.space.count:
        raise UserError(
            f"--trials: {trials}, but only {study.space.count} networks can be tried; ask for fewer"
        )
    rows = read_trials(study.folder / TRIALS)
    for row in rows:
        remove_checkpoints(study.workdir(row.index))
    while len(rows) <= trials:
        trial = agree(next_trial(study, rows))
        rows.append(trial)
        if jax.process_index() == 0:
            write_trials(study.folder / TRIALS, rows)
            after(rows)
        tidy_up(study, trial.index)
    return rows


def next_trial(study: Study, rows: Sequence[Trial]) -> Trial:
    """Runs the trial that follows those recorded."""
    if not rows:
        trial = run_trial(study, 0, study.backbone.blocks)
        return dataclasses.replace(trial, reward=trial.accuracy)
    blocks = propose(study, rows)
    again = next((row for row in rows if row.blocks == blocks), None)
    if again is not None:
        return dataclasses.replace(
            again, index=len(rows), status="repeat", reason=f"is trial {again.index}", seconds=0.0
        )
    try:
        trial = run_trial(study, len(rows), blocks)
    except (UserError, NonFiniteLossError) as error:
        return failed(study, len(rows), blocks, str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return failed(study, len(rows), blocks, f"out of memory: {str(error).splitlines()[0]}")
    reward = Reward(
        rows[0].step_seconds, rows[0].params, study.settings.step_weight, study.settings.params_weight
    )
    return dataclasses.replace(trial, reward=reward(trial.accuracy, trial.step_seconds, trial.params))


def propose(study: Study, rows: Sequence[Trial]) -> tuple[str, ...]:
    """The blocks to try next, which follow from the settings and the trials recorded."""
    tried = []
    for row in rows:
        try:
            tried.append(samplers.Tried(study.space.choices(row.blocks), row.reward))
        except UserError:
            if row.index:  # the backbone alone may lie outside
                raise
    settings = study.settings
    return study.space.blocks(
        samplers.propose(settings.sampler, study.space, settings.seed, tried, settings.evolution)
    )


def run_trial(study: Study, index: int, blocks: tuple[str, ...]) -> Trial:
    """Measures and trains one network; its reward is left to the caller.

    Raises:
      UserError, NonFiniteLossError: from the trainer.

    """
    begin = time.perf_counter()
    experiment = study.candidate(blocks)
    size = measure.count(experiment, create_mesh(experiment.mesh))
    step_seconds = time_step(experiment, study.settings)
    accuracy = train_to_the_end(experiment, study.workdir(index), study.settings.metric)
    return Trial(
        index,
        blocks,
        experiment.train.seed,
        "ok",
        accuracy=accuracy,
        step_seconds=step_seconds,
        **dataclasses.asdict(size),
        seconds=time.perf_counter() - begin,
    )


def time_step(experiment: Experiment, settings: Settings) -> float:
    """Seconds of a train step, measured here or planned for other chips."""
    if settings.topology:
        return measure.planned_seconds(experiment, settings.topology)
    return measure.step_seconds(experiment, settings.timed_steps)


def train_to_the_end(experiment: Experiment, workdir: epath.Path, metric: str) -> float:
    """The metric after the last step of the experiment, trained in `workdir` or gone on with there.

    Raises:
      UserError: no evaluator gives that metric.
      NonFiniteLossError: it is no number.

    """
    scores = dict(train(experiment, workdir).scores)
    if not scores:  # it had ended before, but was not recorded
        scores = evaluate(experiment, workdir)[1]
    if metric not in scores:
        raise UserError(f"--metric: {metric!r} is not among the scores ({', '.join(sorted(scores))})")
    if not math.isfinite(scores[metric]):
        raise NonFiniteLossError(f"{metric} is {scores[metric]} after training")
    return scores[metric]


def failed(study: Study, index: int, blocks: tuple[str, ...], reason: str) -> Trial:
    """A trial that came to nothing; its reward is 0."""
    return Trial(index, blocks, study.experiment.train.seed, "failed", reason)


def tidy_up(study: Study, index: int) -> None:
    """Gives back the memory and the disk that a finished trial took; a thousand would fill either."""
    jax.clear_caches()
    remove_checkpoints(study.workdir(index))
    cache = study.folder / COMPILE_CACHE
    if jax.process_index() == 0 and cache.exists():
        for file in cache.iterdir():
            if not file.is_dir():  # XLA keeps its tuning of GPU kernels in a folder, which all trials share
                file.unlink(missing_ok=True)


def remove_checkpoints(workdir: epath.Path) -> None:
    """Removes the checkpoints of a trial that is recorded; its metrics stay."""
    if jax.process_index() == 0 and (workdir / CHECKPOINTS).exists():
        (workdir / CHECKPOINTS).rmtree()
