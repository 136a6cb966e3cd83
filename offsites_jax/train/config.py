"""Experiment files: what may stand in one, and how it becomes a checked, typed Experiment.

An experiment file is Python with `get_config(arg=None)` returning a `ml_collections.ConfigDict` with the
sections of `SECTIONS` and no others. Everything is checked here, before anything is compiled or written.
"""

import ast
import copy
import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import ml_collections

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.parallel.rules import Sharding
from offsites_jax.train.checkpoint import Keep
from offsites_jax.train.contract import MAIN
from offsites_jax.train.optimizers import Optimizer
from offsites_jax.train.project import Project, find_project
from offsites_jax.train.schema import nearest, parse
from offsites_jax.train.step import Ema, SliceReduction
from offsites_jax.train.warm_start import InitFrom

SECTIONS = (
    "project", "model", "task", "data", "optimizer", "train", "stages", "mesh", "sharding",
    "init_from", "evaluators", "expected",
)  # fmt: skip
STAGED = ("model", "task", "data", "train")
# What a resumed run may change without becoming another experiment.
HARMLESS = (
    "mesh", "sharding", "evaluators", "expected", "data.loading", "train.log_every", "train.eval_every",
    "train.checkpoint_every", "train.keep", "train.compile_ahead",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Train:
    """Section `train`: how long, how large, how often.

    Attributes:
      steps: updates in the whole run.
      batch_size: rows of a global batch, over all hosts and devices.
      seed: of initial parameters, data order, augmentation and dropout.
      log_every: steps between lines of train metrics; each line averages over its interval.
      checkpoint_every: steps between checkpoints; one more is written at the end.
      eval_every: steps between evaluations; 0 evaluates at the end only.
      accumulate: micro-batches a batch is cut into.
      precision: compute dtype; auto is bfloat16 on TPU and GPU and float32 on CPU. Parameters are float32.
      ema: moving average of parameters and model state.
      keep: which checkpoints stay.
      on_non_finite: stop the run, or skip the update and count it.
      compile_ahead: compile the next stage while one trains: everywhere but on CPU, whose cores train
        (auto), or yes or no.
      slice_reduction: how gradients cross the slices of a multi-slice pod: as the compiler sees fit
        (auto), or scattered inside each slice and summed across in float32 or bfloat16.

    """

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    eval_every: int = 0
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema: Ema = Ema()
    keep: Keep = Keep()
    on_non_finite: Literal["stop", "skip"] = "stop"
    compile_ahead: Literal["auto", "yes", "no"] = "auto"
    slice_reduction: SliceReduction = "auto"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One entry of `stages`: overrides that hold until a step.

    Attributes:
      name: shown in logs.
      until: step at which the stage ends; a float below 1 is a share of the run; 0 is the end of the run.
      model, task, data, train: keys of those sections that differ in this stage. Parameter shapes may not.

    """

    name: str
    until: int | float = 0
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    train: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Expected:
    """One entry of `expected`: a published figure to compare a run with.

    Attributes:
      value: the figure, in the unit of the metric it is filed under.
      tolerance: how far off still counts as reproduced.
      source: where the figure is published.

    """

    value: float
    tolerance: float = 0.0
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A resolved experiment: every section typed, every default filled in.

    Attributes:
      raw: the plain nested dict it was made from (JSON types), stages unapplied, `init_from` a section.
      found: the project's code.
      model, task, data: instances of the project's own schemas, with the stage's overrides applied.
      ends: last step of each stage; one entry, the run's end, when there are no stages.
      stage: index of the stage this view is of.

    """

    raw: dict[str, Any]
    found: Project
    model: Any
    task: Any
    data: Any
    optimizer: Mapping[str, Optimizer]
    train: Train
    stages: tuple[Stage, ...]
    ends: tuple[int, ...]
    stage: int
    mesh: MeshSettings
    sharding: Sharding
    init_from: InitFrom | None
    evaluators: Mapping[str, Any]
    expected: Mapping[str, Expected]

    @property
    def project(self) -> str:
        """Name of the project."""
        return self.found.name

    @property
    def stage_name(self) -> str:
        """Name of this view's stage."""
        return self.stages[self.stage].name if self.stages else "all"

    @property
    def batch_ratio(self) -> float:
        """Batch size of this view's stage over that of the run."""
        return self.train.batch_size / self.raw["train"]["batch_size"]

    def at_stage(self, index: int) -> "Experiment":
        """The same experiment with the overrides of stage `index`."""
        return self if index == self.stage else resolve(self.raw, stage=index)

    def first_alike(self, index: int) -> int:
        """The first stage with the same overrides as stage `index`; both are one program."""
        overrides = [(stage.model, stage.task, stage.data, stage.train) for stage in self.stages]
        return overrides.index(overrides[index]) if overrides else 0

    @property
    def final(self) -> "Experiment":
        """The experiment at its last stage: the model that comes out of it."""
        return self.at_stage(len(self.ends) - 1)

    def stage_at(self, step: int) -> int:
        """Index of the stage that update number `step` (from 0) belongs to; the last one after the end."""
        return next((i for i, end in enumerate(self.ends) if step < end), len(self.ends) - 1)


def load_experiment(path: str | pathlib.Path, overrides: Mapping[str, str] | None = None) -> Experiment:
    """Reads an experiment file.

    Args:
      path: the file, or `file:argument` to pass `get_config` an argument.
      overrides: values by dotted key, as text: {"train.steps": "100"}.

    Raises:
      UserError: for a missing file, an unknown key or a wrong type.

    """
    file, _, argument = str(path).partition(".py:")
    file = file if file.endswith(".py") else f"{file}.py"
    raw = plain(_get_config(pathlib.Path(file), argument or None))
    for key, text in (overrides or {}).items():
        override(raw, key, text)
    for stage in range(len(raw.get("stages") or ())):
        resolve(raw, stage=stage)
    return resolve(raw)


def resolve(raw: dict[str, Any], *, stage: int = 0) -> Experiment:
    """A checked Experiment from a plain nested dict, seen at one of its stages."""
    for key in raw:
        if key not in SECTIONS:
            raise UserError(f"config.{key}: unknown section{nearest(key, SECTIONS)}")
    for key in ("project", "train"):
        if key not in raw:
            raise UserError(f"config.{key}: missing; every experiment needs it")
    if raw.get("init_from") is not None:
        raw = {**raw, "init_from": _init_section(raw["init_from"])}
    project = find_project(raw["project"])
    whole_run = parse(raw["train"], Train, "train")
    check_train(whole_run)
    stages = tuple(parse(s, Stage, f"stages[{i}]") for i, s in enumerate(raw.get("stages") or ()))
    ends = stage_ends(stages, whole_run.steps)
    staged = {name: dict(raw.get(name) or {}) for name in STAGED}
    if stages:
        staged = {name: merged(staged[name], getattr(stages[stage], name)) for name in STAGED}
    evaluators = {
        name: parse(section, project.EvaluatorConfig, f"evaluators.{name}")
        for name, section in (raw.get("evaluators") or {}).items()
    }
    expected = raw.get("expected") or {}
    train = dataclasses.replace(parse(staged["train"], Train, "train"), steps=whole_run.steps)
    check_train(train)
    return Experiment(
        raw=raw,
        found=project,
        model=parse(staged["model"], project.ModelConfig, "model"),
        task=parse(staged["task"], project.TaskConfig, "task"),
        data=parse(staged["data"], project.DataConfig, "data"),
        optimizer=parse_optimizers(raw.get("optimizer") or {}),
        train=train,
        stages=stages,
        ends=ends,
        stage=stage,
        mesh=parse(raw.get("mesh") or {}, MeshSettings, "mesh"),
        sharding=parse(raw.get("sharding") or {}, Sharding, "sharding"),
        init_from=parse(raw["init_from"], InitFrom, "init_from") if raw.get("init_from") else None,
        evaluators=evaluators,
        expected={name: parse(e, Expected, f"expected.{name}") for name, e in expected.items()},
    )


def parse_optimizers(section: Mapping[str, Any]) -> dict[str, Optimizer]:
    """Optimizer section by parameter group; a section with a `name` is that of the one group."""
    if "name" in section or not section:
        return {MAIN: parse(section, Optimizer, "optimizer")}
    for group, inner in section.items():
        if not isinstance(inner, Mapping):
            raise UserError(
                f"config.optimizer.{group}: give optimizer.name, or one section per parameter group"
            )
    return {group: parse(inner, Optimizer, f"optimizer.{group}") for group, inner in section.items()}


def stage_ends(stages: Sequence[Stage], steps: int) -> tuple[int, ...]:
    """Last step of each stage, checked to rise and to end with the run."""
    if not stages:
        return (steps,)
    ends: list[int] = []
    for index, stage in enumerate(stages):
        share = isinstance(stage.until, float) and 0 < stage.until < 1
        end = int(stage.until * steps) if share else int(stage.until) or steps
        where = f"config.stages[{index}].until"
        if end <= (ends[-1] if ends else 0):
            raise UserError(
                f"{where}: stage {stage.name!r} ends at step {end}, not after the one before it; "
                "put stages in order"
            )
        if end > steps:
            raise UserError(
                f"{where}: step {end} is beyond train.steps={steps}; lower it or use a share such as 0.5"
            )
        ends.append(end)
    if ends[-1] != steps:
        raise UserError(
            f"config.stages[{len(ends) - 1}].until: the last stage ends at {ends[-1]}, the run at {steps}; "
            "leave it out"
        )
    return tuple(ends)


def check_train(train: Train) -> None:
    """Raises UserError for numbers that no run can have."""
    for name in ("steps", "batch_size", "log_every", "checkpoint_every", "accumulate"):
        if getattr(train, name) < 1:
            raise UserError(f"config.train.{name}: is {getattr(train, name)}, must be at least 1")
    if train.batch_size % train.accumulate:
        raise UserError(
            f"config.train.accumulate: {train.accumulate} does not divide batch_size={train.batch_size}"
        )


def override(raw: dict[str, Any], key: str, text: str) -> None:
    """Sets one dotted key of the nested dict from text, in place."""
    *path, last = key.split(".")
    section: Any = raw
    if path[:1] == ["init_from"]:
        raw["init_from"] = _init_section(raw.get("init_from"))
    for index, name in enumerate(path):
        section = _child(section, name, ".".join(path[: index + 1]))
    if isinstance(section, list):
        section[_index(section, last, key)] = parse_value(text)
    else:
        section[last] = parse_value(text)


def parse_value(text: str) -> Any:
    """A number, boolean, None, list or quoted string as Python writes it; anything else is a string."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def plain(value: Any) -> Any:
    """Nested dicts and lists of JSON types, from a ConfigDict."""
    if isinstance(value, ml_collections.ConfigDict):
        return plain(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"config: {value!r} is {type(value).__name__}; use numbers, strings, lists and dicts")


def merged(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`section` with `changes` laid over it, nested dicts included."""
    result = copy.deepcopy(dict(section))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines 'key: old -> new' for what a resumed run may not change."""
    before, after = leaves(old), leaves(new)
    keys = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    harmful = [k for k in keys if not any(k == h or k.startswith(f"{h}.") for h in HARMLESS)]
    return [f"{k}: {json.dumps(before.get(k))} -> {json.dumps(after.get(k))}" for k in harmful]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Values of a nested dict by dotted key; lists are values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


def _init_section(value: Any) -> Any:
    """Section `init_from`, of which a plain string is the path."""
    if isinstance(value, str):
        return {"path": value} if value else None
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"config.init_from: is {value!r}; give a path, or a section with a path")
    return value


def _child(section: Any, name: str, key: str) -> Any:
    if isinstance(section, list):
        return section[_index(section, name, key)]
    child = section.get(name)
    if (child is None and name in SECTIONS) or (isinstance(section, dict) and child is None):
        child = section[name] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"config.{key}: is a value, not a section; nothing can be set inside it")
    return child


def _index(items: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise UserError(f"config.{key}: {name!r} is no index of a list of {len(items)}")
    return int(name)


def read_module(file: pathlib.Path) -> ModuleType:
    """An experiment file as a module.

    Raises:
      UserError: there is no such file, it is no Python, or imports what is not installed.

    """
    if not file.is_file():
        raise UserError(f"{file}: no such experiment file; `offsites list experiments` shows those there are")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise UserError(f"{file}: {error}; install it, or mend the import") from error
    return module


def _get_config(file: pathlib.Path, argument: str | None) -> Any:
    module = read_module(file)
    if not hasattr(module, "get_config"):
        raise UserError(f"{file}: defines no get_config(); see docs/configuration.md")
    return module.get_config(argument) if argument else module.get_config()
