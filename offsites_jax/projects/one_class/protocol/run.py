"""An experiment as a published protocol: trained with every category and seed, scored, and put in a table."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int32

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.projects.one_class import scorers
from offsites_jax.projects.one_class.data import DataConfig, read_all, split_pipeline
from offsites_jax.projects.one_class.detectors.base import Scores
from offsites_jax.projects.one_class.detectors.patches import ALIGNED
from offsites_jax.projects.one_class.measures.scores import image_figures
from offsites_jax.projects.one_class.protocol.cells import Cell, Result, cells_of, run_protocol
from offsites_jax.projects.one_class.protocol.stacked import RUN, train_stacked
from offsites_jax.projects.one_class.protocol.tables import Row, table, to_markdown, write_tables
from offsites_jax.projects.one_class.recipes.published import CATEGORIES, GROUPS
from offsites_jax.projects.one_class.scorers import ScorerSettings, ensemble
from offsites_jax.projects.one_class.second_stage.features import layer_for, needs_rotation, of_split
from offsites_jax.projects.one_class.second_stage.fit import (
    SecondStage,
    before_training,
    fit_without_threshold,
    open_model,
    pixel_figures,
)
from offsites_jax.projects.one_class.stored import npy_bytes, write_file
from offsites_jax.train.config import Experiment, load_experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.restore import TrainedModel, restore

ENSEMBLE = "auc_ensemble"
MOST_CPU_DEVICES = 50
_SCORES = "scores.npy"  # of the first scorer, in the folder of a cell; what ensembles are made of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
      path: the experiment file, perhaps with a variant.
      workdir: folder of the protocol.
      categories: what is normal in turn; empty is all of the data set.
      seeds: each category is trained with each.
      scorer_names: the first gives the figure `auc`, the others `auc_<name>`.
      raw_pixels: also what the scorers make of raw pixels, as `raw_<name>`.
      untrained: also all figures of the network that each training starts with, as `untrained_<figure>`.
      joined: also the figure of the mean score over the seeds.
      overrides: keys of the experiment to change.
      stacked: train all cells side by side, in one job.

    """

    path: str
    workdir: str
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    scorer_names: tuple[scorers.ScorerName, ...]
    raw_pixels: bool
    untrained: bool
    joined: bool
    overrides: Mapping[str, str]
    stacked: bool = False

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment, as its file says and with the overrides."""
        return load_experiment(self.path, self.overrides)

    @property
    def all_categories(self) -> tuple[str, ...]:
        """What is normal in turn.

        Raises:
          UserError: none is named, and the data set has no list of its own.

        """
        source = self.experiment.data.source
        if not self.categories and source not in CATEGORIES:
            raise UserError(f"protocol: data.source {source!r} has no categories of its own; name them")
        return self.categories or CATEGORIES[source]

    @property
    def cpu_devices(self) -> int:
        """Virtual devices where there is only a CPU: for a laptop's stack, one for each training."""
        mesh = self.experiment.mesh
        if mesh.cpu_devices or not self.stacked or mesh.data != 1:
            return mesh.cpu_devices
        return min(len(self.all_categories) * len(self.seeds), MOST_CPU_DEVICES)

    def raw(self, cell: Cell) -> dict[str, Any]:
        """The configuration of a cell: without evaluators, since all scorers score it at its end."""
        raw = copy.deepcopy(self.experiment.raw)
        raw.setdefault("data", {})["category"] = cell.category
        raw["train"]["seed"] = cell.seed
        raw["evaluators"] = {}
        return raw


def run(plan: Plan) -> str:
    """Runs what is not finished yet, writes the tables, and returns them as Markdown.

    Raises:
      UserError: settings that do not fit, or a folder of other settings.

    """
    settings = [ScorerSettings(name) for name in plan.scorer_names]
    if not settings:
        raise UserError("protocol: name at least one scorer")
    for scorer in settings:
        needs_rotation(plan.experiment, scorer)
    cells = cells_of(plan.workdir, plan.all_categories, plan.seeds)
    shared = {
        "experiment": {**plan.experiment.raw, "evaluators": {}, "expected": {}},
        "scorers": list(plan.scorer_names),
        "raw_pixels": plan.raw_pixels,
        "untrained": plan.untrained,
    }
    results = run_protocol(
        plan.workdir, cells, functools.partial(_run_cell, plan, settings), shared, before=_stacking(plan)
    )
    rows = table(results, _groups(plan), _published(plan.experiment))
    if plan.joined and len(plan.seeds) > 1:
        rows += _ensembles(plan, cells, results)
    if jax.process_index() == 0:
        write_tables(plan.workdir, results, rows)
    return to_markdown(rows)


def _stacking(plan: Plan) -> Callable[[Sequence[Cell]], None]:
    """What trains open cells in one job, where that is wanted; what is trained, `_run_cell` only scores."""
    if not plan.stacked:
        return lambda cells: None
    return functools.partial(train_stacked, plan.workdir, raw_of=plan.raw)


def _run_cell(plan: Plan, settings: Sequence[ScorerSettings], cell: Cell) -> dict[str, float | None]:
    experiment = resolve(plan.raw(cell))
    workdir = cell.workdir / RUN
    train(experiment, workdir)
    windows = bool(experiment.task.pretext.window)
    figure = _figure_windows if windows else _figure_images
    found = figure(cell.category, open_model(str(workdir)) if windows else restore(workdir), settings)
    _write_scores(cell, found)
    figures = dict(found.figures)
    if plan.untrained:
        mesh = MeshSettings(data=1) if windows else experiment.mesh
        fresh = before_training(dataclasses.replace(experiment.final, mesh=mesh))
        before = figure(cell.category, fresh, settings).figures
        figures |= {f"untrained_{name}": value for name, value in before.items()}
    if plan.raw_pixels:
        figures |= _floors(experiment.data, settings)
    return figures


@dataclasses.dataclass(frozen=True)
class _Figured:
    """Figures by name, and what the first of them is of."""

    figures: dict[str, float | None]
    scores: Scores
    labels: Int32[np.ndarray, "count"]


def _figure_images(category: str, model: TrainedModel, settings: Sequence[ScorerSettings]) -> _Figured:
    """Every scorer on whole images."""
    found: list[_Figured] = []
    for scorer in settings:
        layer = layer_for(scorer, "pooled")
        fitted = scorers.fit(scorer, of_split(model, "train", layer).features)
        tested = of_split(model, "test", layer)
        scores = fitted.score(tested.features)
        name = f"auc_{scorer.name}" if found else "auc"
        auc = image_figures(scores, tested.labels, f"{category}/test").auc
        found.append(_Figured({name: auc}, scores, tested.labels))
    joined = {name: auc for one in found for name, auc in one.figures.items()}
    return dataclasses.replace(found[0], figures=joined)


def _figure_windows(category: str, model: TrainedModel, settings: Sequence[ScorerSettings]) -> _Figured:
    """Gaussians of windows; at each place where the objects of the category are aligned."""
    data = model.experiment.data
    normal, tested = (read_all(split_pipeline(data, split)) for split in ("train", "test"))
    stage = SecondStage(aligned=data.source == "mvtec" and category in ALIGNED)
    bundle = fit_without_threshold(model, stage, normal["image"])
    scores, source = bundle.score(tested["image"]), f"{category}/test"
    figures = {"auc": image_figures(scores, tested["label"], source).auc}
    if "defect" in tested:
        figures["pixel_auc"] = pixel_figures(bundle, tested, source).auc
    return _Figured(figures, scores, tested["label"])


def _floors(data: DataConfig, settings: Sequence[ScorerSettings]) -> dict[str, float | None]:
    """What scorers make of the pixels themselves."""
    normal, tested = (read_all(split_pipeline(data, split)) for split in ("train", "test"))
    rows, queries = _pixels(normal["image"]), _pixels(tested["image"])
    return {
        f"raw_{scorer.name}": image_figures(
            scorers.fit(scorer, rows).score(queries), tested["label"], f"{data.category}/test"
        ).auc
        for scorer in settings
        if scorer.name not in ("logit", "dscore")
    }


def _pixels(images: np.ndarray) -> Float[np.ndarray, "count pixels"]:
    """Values in [0, 1], a row an image; those of a grey one once."""
    grey = (images == images[..., :1]).all()
    return (images[..., :1] if grey else images).reshape(len(images), -1).astype(np.float32) / 255


def _write_scores(cell: Cell, found: _Figured) -> None:
    """Scores and labels [2, images], for ensembles."""
    if jax.process_index():
        return
    write_file(cell.workdir / _SCORES, npy_bytes(np.stack([found.scores, found.labels]).astype(np.float32)))


def _ensembles(plan: Plan, cells: Sequence[Cell], results: Sequence[Result]) -> list[Row]:
    """The figure of the mean score over all seeds, of categories that all seeds have finished."""
    done = {(result.category, result.seed) for result in results if result.status == "done"}
    figures: dict[str, float | None] = {}
    for category in plan.all_categories:
        mine = [cell for cell in cells if cell.category == category]
        if not all((cell.category, cell.seed) in done for cell in mine):
            continue
        found = [np.load(epath.Path(cell.workdir) / _SCORES, allow_pickle=False) for cell in mine]
        labels = found[0][1].astype(np.int32)
        figures[category] = image_figures(ensemble(np.stack([f[0] for f in found])), labels, category).auc
    joined = [Result(name, 0, "done", {ENSEMBLE: figure}) for name, figure in figures.items()]
    return table(joined, _groups(plan) if len(figures) == len(plan.all_categories) else {})


def _groups(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The groups of the data set of which all categories are run."""
    known = GROUPS.get(plan.experiment.data.source, {})
    return {name: members for name, members in known.items() if set(members) <= set(plan.all_categories)}


def _published(experiment: Experiment) -> dict[str, float]:
    return {name: figure.value for name, figure in experiment.expected.items()}
