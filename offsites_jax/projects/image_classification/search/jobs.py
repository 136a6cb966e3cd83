"""The commands `search` and `scale`."""

from typing import Literal

from offsites_jax.errors import UserError


def search(
    experiment: str,
    workdir: str,
    trials: int = 1000,
    sampler: Literal["random", "evolution", "reinforce"] = "random",
    seed: int = 0,
    kernel_sizes: tuple[int, ...] = (3, 5),
    expand_ratios: tuple[int, ...] = (1, 4, 6),
    layers: int = 2,
    metric: str = "",
    step_weight: float = -0.07,
    params_weight: float = -0.05,
    timed_steps: int = 20,
    topology: str = "",
    population: int = 100,
    tournament: int = 25,
    overrides: tuple[str, ...] = (),
    coordinator: str = "",
    process_count: int = 0,
    process_index: int = -1,
) -> None:
    """Searches for a network that is accurate, fast to train and small; run it again to go on.

    Args:
      experiment: experiment file; its model is the backbone, its training that of every candidate.
      workdir: folder of the search: trials.jsonl, report.md, report.json, pareto.png.
      trials: networks to try besides the backbone; more may be asked for later.
      sampler: random search, regularised evolution, or reinforcement learning.
      seed: of the sampler.
      kernel_sizes: kernels to choose from, stage by stage.
      expand_ratios: expansions to choose from, stage by stage.
      layers: layers a stage may have more or fewer than the backbone's.
      metric: what to call accuracy; the experiment's train.keep.best unless told.
      step_weight: power of the train step's time in the reward.
      params_weight: power of the number of parameters in the reward.
      timed_steps: train steps whose median is the step time.
      topology: TPUs to plan for, as v5e:4x4: the step time is then the floor that `offsites plan` gives for
        them, not the time measured here.
      population: of evolution: how many of the newest trials may have offspring.
      tournament: of evolution: how many of them are drawn; the best of these is the parent.
      overrides: keys of the experiment to change, as train.steps=100.
      coordinator: host:port of process 0, where a candidate is trained by several processes; pods, SLURM and
        GKE say so by themselves. Should one process die, start all of them again.
      process_count: how many there are.
      process_index: which of them this is, from 0.

    """
    import jax
    from etils import epath

    from offsites_jax.parallel.start import Processes, start
    from offsites_jax.projects.image_classification.search.overrides import pairs
    from offsites_jax.projects.image_classification.search.report import write_report
    from offsites_jax.projects.image_classification.search.sampler import Evolution
    from offsites_jax.projects.image_classification.search.study import Settings, open_study, run_study
    from offsites_jax.projects.image_classification.search.trials import Trial, describe
    from offsites_jax.train.config import load_experiment
    from offsites_jax.train.workdir import COMPILE_CACHE

    loaded = load_experiment(experiment, pairs(overrides))
    metric = metric or loaded.train.keep.best
    if metric.partition("/")[0] not in loaded.evaluators:
        raise UserError(
            f"--metric: {metric!r} is of no evaluator of the experiment ({', '.join(loaded.evaluators)}); "
            "say EVALUATOR/METRIC, as in test/accuracy"
        )
    settings = Settings(
        metric=metric,
        sampler=sampler,
        seed=seed,
        kernel_sizes=kernel_sizes,
        expand_ratios=expand_ratios,
        layers=layers,
        step_weight=step_weight,
        params_weight=params_weight,
        timed_steps=timed_steps,
        topology=topology,
        evolution=Evolution(population, tournament),
    )
    processes = Processes(coordinator, process_count, process_index)
    start(loaded.mesh.cpu_devices, processes, cache=epath.Path(workdir) / COMPILE_CACHE)
    study = open_study(loaded, workdir, settings)

    def report(rows: list[Trial]) -> None:
        print(describe(rows[-1]))
        write_report(study, rows)

    rows = run_study(study, trials, after=report)
    if jax.process_index() == 0:  # a kill may have come between the last trial and its report
        write_report(study, rows)
        print(f"{workdir}: {len(rows) - 1} trials; see report.md and pareto.png")


def scale(
    experiment: str,
    coefficient: float = 1.0,
    width: float = 0.0,
    depth: float = 0.0,
    size: float = 0.0,
    depth_bonus: tuple[float, ...] = (),
    extra_stage: str = "",
    narrow_stem: bool = False,
    scale_head: bool = False,
    max_size: int = 480,
    output: str = "",
    overrides: tuple[str, ...] = (),
) -> None:
    """Makes an experiment's model bigger, more so in its later stages, and says what that costs.

    Args:
      experiment: experiment file; its model is the base.
      coefficient: of compound scaling: depth 1.2^c, width 1.1^c, image size 1.15^c.
      width: multiplier of widths instead.
      depth: multiplier of layers instead.
      size: multiplier of image sizes instead.
      depth_bonus: share of layers on top of that, by stage from the first; 0.2 in the fifth unless told.
      extra_stage: a stage to append before scaling, as r2_k3_s1_e6_i192_o320_se0.25.
      narrow_stem: give the stem as many channels as the first stage, as EfficientNetV2-S to XL have.
      scale_head: multiply the width of the last convolution too.
      max_size: largest image size, in pixels.
      output: file to write the scaled experiment to.
      overrides: keys of the experiment to change first, as train.steps=100.

    """
    from offsites_jax.parallel.start import Processes, start
    from offsites_jax.projects.image_classification.search.overrides import pairs, write_experiment
    from offsites_jax.train.config import load_experiment

    base = load_experiment(experiment, pairs(overrides)).final
    start(processes=Processes(count=1))

    from offsites_jax.projects.image_classification.search import scale as scaling

    factors = scaling.compound(coefficient)
    factors = scaling.Factors(width or factors.width, depth or factors.depth, size or factors.size)
    settings = scaling.Settings(factors, depth_bonus, extra_stage, narrow_stem, scale_head, max_size)
    if output:
        scaling.check_output(output)
    changed = scaling.scale_experiment(base, settings)
    print(scaling.render(base, changed, settings))
    if output:
        write_experiment(output, changed.raw, f"{experiment} with a bigger network.")
