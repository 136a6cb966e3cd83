"""The one train loop.

Read it top to bottom: workdir, mesh, state; then for each step batch, update, and every so often log,
evaluate, save. Every project runs through here; none has a loop of its own.

The order at a step is fixed: update, log, evaluate, save, leave if asked. Evaluation comes before the save so
that a checkpoint carries its own scores; the save comes last so that all that led to it is in the log.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
from etils import epath
from jax.sharding import Mesh

from offsites_jax.data.pipeline import Batches, train_batches
from offsites_jax.data.prefetch import DeviceBatches
from offsites_jax.errors import Preempted, UserError
from offsites_jax.parallel.mesh import check_batch_size, create_mesh, data_shard, put_batch
from offsites_jax.parallel.start import Processes, start
from offsites_jax.train.ahead import CompiledStages
from offsites_jax.train.checkpoint import Checkpoints
from offsites_jax.train.config import Experiment, leaves
from offsites_jax.train.evaluation import Evaluations
from offsites_jax.train.lost import explaining_loss, unless_lost
from offsites_jax.train.preemption import Preemption
from offsites_jax.train.profile import Profiler
from offsites_jax.train.program import Program, check_stages, create_program
from offsites_jax.train.progress import Progress
from offsites_jax.train.report import describe_run, versions
from offsites_jax.train.state import TrainState
from offsites_jax.train.step import StepFn
from offsites_jax.train.tally import Tally
from offsites_jax.train.warm_start import warm_start
from offsites_jax.train.workdir import CHECKPOINTS, open_workdir
from offsites_jax.train.writers import MetricsWriter


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves in memory.

    Attributes:
      state: the final train state, on the mesh.
      scores: the last evaluation, as {"<evaluator>/<metric>": value}.
      seconds: wall seconds by activity of this process (compile, step, data, evaluate, checkpoint ...).

    """

    state: TrainState
    scores: Mapping[str, float]
    seconds: Mapping[str, float]


def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    *,
    profile: tuple[int, int] | None = None,
    wandb: str = "",
    stop_at: int | None = None,
    cache: epath.PathLike | None = None,
) -> TrainResult:
    """Trains from the newest good checkpoint in `workdir`, or from the start, to the experiment's last step.

    Args:
      experiment: from `load_experiment`.
      workdir: local or gs:// folder of the run.
      profile: (first, last) step of a profiler window.
      wandb: Weights & Biases project to log to as well.
      stop_at: leave at this step, saved, as if asked by SIGTERM.
      cache: folder for compiled programs, as `start` takes it; made once the experiment has been checked.

    Raises:
      UserError: the workdir is another run's, the batch does not divide over the mesh, ...
      NonFiniteLossError: the loss left the real numbers; the last checkpoint is intact.
      Preempted: asked to leave; the state is saved.
      ProcessLostError: another process of the run died.

    """
    settings = experiment.train
    mesh = create_mesh(experiment.mesh)
    check_stages(experiment, mesh)
    check_splits(experiment, mesh)
    program = create_program(experiment.at_stage(0), mesh)
    workdir = open_workdir(workdir, experiment)
    start(processes=Processes(count=1), cache=cache)  # only the cache: the processes have met already
    with explaining_loss(), contextlib.ExitStack() as stack:
        progress = Progress(settings.steps, settings.batch_size)
        checkpoints = Checkpoints(workdir / CHECKPOINTS, settings.keep)
        stack.push(unless_lost(checkpoints.close))
        writer = stack.enter_context(MetricsWriter(workdir, wandb=wandb))
        profiler = stack.enter_context(Profiler(workdir, profile))
        preemption = stack.enter_context(Preemption())
        stages = stack.enter_context(contextlib.ExitStack())

        with progress.time("restore"):
            state, meta = restore_or_create(checkpoints, program)
        step = int(state.step)
        writer.truncate(step)
        tally = Tally(
            meta.get("tally"),
            stop_on_non_finite=settings.on_non_finite == "stop",
            objective=program.task.objectives[0].name,
        )
        describe_run(program, state, writer, step)

        compiled = stack.enter_context(contextlib.closing(CompiledStages(experiment, mesh)))
        stage, scores, leaving = None, {}, False
        while step < settings.steps and not leaving:
            if stage is None or step >= stage.end:
                stages.close()
                stage = stages.enter_context(
                    contextlib.closing(enter_stage(experiment, mesh, step, meta, progress, compiled))
                )

            batch = next(stage.batches)
            state, metrics = profiler.run(step, stage.update, state, batch)
            step += 1
            tally.add(step, metrics)

            last, leaving = step == settings.steps, preemption.reached() or step == stop_at
            log = last or step % settings.log_every == 0
            evaluate = last or (settings.eval_every > 0 and step % settings.eval_every == 0)
            save = last or leaving or step % settings.checkpoint_every == 0
            if log:
                tally.mark(step)
                progress.log_point(step, stage.batches.wait_seconds)
            stage_ends = step == stage.end  # what is logged of a stage is said with its own rates
            if log or evaluate or save or stage_ends:
                # Metrics are fetched one interval late, so that logging never waits for the device.
                lines = tally.lines(keep_last=not (evaluate or save or stage_ends))
                speed = progress.rates(lines[-1][0]) if lines else {}
                for at, values in lines:
                    writer.write(at, "train", {**values, **stage.rates(at), **speed, **stage.skipped()})
                    progress.show(at, values)
            if evaluate or save:
                # Parameters that are not finite are neither evaluated nor saved: this is where it shows.
                open_interval = tally.flush()
            if evaluate:
                with progress.time("evaluate"):
                    scores = stage.evaluations.run(step, state, writer)
                    state = stage.heed(state, scores)
            if save:
                writer.flush()
                with progress.time("checkpoint"):
                    checkpoints.save(
                        step, state, run_meta(stage, open_interval), scores if evaluate else None
                    )

        with progress.time("checkpoint"):
            checkpoints.wait()
        progress.finish()
    if step < settings.steps:
        raise Preempted(f"{workdir}: asked to leave; saved step {step}. Run the same command to go on")
    return TrainResult(state, scores, progress.seconds)


@dataclasses.dataclass(frozen=True)
class RunningStage:
    """A stage compiled, with its batches under way."""

    program: Program
    end: int
    update: StepFn
    host_batches: Batches
    batches: DeviceBatches
    evaluations: Evaluations
    heed: Callable[[TrainState, Mapping[str, float]], TrainState]
    fingerprint: str

    def rates(self, step: int) -> dict[str, float]:
        """The learning rate that update number `step` used, by parameter group."""
        many = len(self.program.schedules) > 1
        names = {
            group: f"{group}/learning_rate" if many else "learning_rate" for group in self.program.schedules
        }
        return {names[group]: float(rate(step - 1)) for group, rate in self.program.schedules.items()}

    def skipped(self) -> dict[str, float]:
        """Damaged records replaced so far in this stage, for the log; nothing when there were none."""
        return {"skipped_records": self.host_batches.skipped} if self.host_batches.skipped else {}

    def close(self) -> None:
        """Stops the data workers."""
        self.batches.close()


def enter_stage(
    experiment: Experiment,
    mesh: Mesh,
    step: int,
    meta: Mapping[str, Any],
    progress: Progress,
    compiled: CompiledStages,
) -> RunningStage:
    """Takes the program of the stage that update number `step` belongs to, and seeks its data to that step.

    A stage with the settings of an earlier one (random resizing draws the same few sizes again and again)
    finds that one's program in `compiled`.
    """
    index = experiment.stage_at(step)
    staged = experiment.at_stage(index)
    with progress.time("compile"):
        ready = compiled.get(index)
    program = dataclasses.replace(ready.program, experiment=staged)
    with progress.time("open data"):
        pipeline = staged.found.create_pipeline(staged, staged.data.train_split, train=True)
        fingerprint = pipeline.source.fingerprint()
        check_same_data(fingerprint, staged, meta)
        size = staged.train.batch_size
        host_batches = train_batches(
            pipeline,
            batch_size=size,
            seed=staged.train.seed,
            step=step,
            shard=data_shard(mesh),
            loading=staged.data.loading,
        )
    progress.stage(staged.stage_name, step, batch_size=size, flops=ready.flops, mesh=mesh)
    return RunningStage(
        program=program,
        end=experiment.ends[index],
        update=ready.update,
        host_batches=host_batches,
        batches=DeviceBatches(
            host_batches, lambda batch: put_batch(batch, mesh, size), staged.data.loading.prefetch
        ),
        evaluations=ready.evaluations,
        heed=ready.heed,
        fingerprint=fingerprint,
    )


def check_splits(experiment: Experiment, mesh: Mesh) -> None:
    """Opens every split the run will read, so that one that is missing shows before anything is written.

    Raises:
      UserError: there is no such split, or it cannot be cut into batches of the size wanted.

    """
    opened = set()
    for index in sorted({experiment.first_alike(i) for i in range(len(experiment.ends))}):
        staged = experiment.at_stage(index)
        for name, settings in staged.evaluators.items():
            size = settings.batch_size or staged.train.batch_size
            check_batch_size(mesh, size, key=f"evaluators.{name}.batch_size")
        # What is read is named by words; numbers only say how, and opening a large folder takes its time.
        values = leaves(dataclasses.asdict(staged.data)).values()
        words = tuple(value for value in values if isinstance(value, str))
        for split in (staged.data.train_split, *(s.split for s in staged.evaluators.values())):
            if (split, words) in opened:
                continue
            opened.add((split, words))
            train = split == staged.data.train_split
            if not len(staged.found.create_pipeline(staged, split, train=train).source):
                raise UserError(f"config.data: split {split!r} has no records; check its path and name")


def restore_or_create(checkpoints: Checkpoints, program: Program) -> tuple[TrainState, dict[str, Any]]:
    """The newest good checkpoint and its meta, or a fresh state and {}."""
    restored = checkpoints.restore(program.abstract)
    if restored:
        return restored.state, restored.meta
    state = program.initial_state()
    if program.experiment.init_from:
        variables, report = warm_start(state.variables(ema=False), program.experiment.init_from)
        logging.info("init_from: %s", report)
        state = state.with_variables(variables)
    return state, {}


def run_meta(stage: RunningStage, open_interval: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself: enough to go on from it, and to rebuild its model without data."""
    experiment, mesh = stage.program.experiment, stage.program.mesh
    return {
        "config": experiment.raw,
        "stage": experiment.stage_name,
        "data": {"fingerprint": stage.fingerprint, "seed": experiment.train.seed},
        "devices": {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind},
        "tally": open_interval,
        "versions": versions(),
    }


def check_same_data(fingerprint: str, experiment: Experiment, meta: Mapping[str, Any]) -> None:
    """Raises UserError when the data of a resumed run is not what it was."""
    before = meta.get("data", {}).get("fingerprint", fingerprint)
    if before != fingerprint:
        raise UserError(
            f"config.data: the data changed since the checkpoint ({before} -> {fingerprint}); batches would "
            "no longer follow from the step. Restore the data or start a new --workdir"
        )
