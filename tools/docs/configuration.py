"""Writes docs/configuration.md, the reference of every key an experiment may set.

    python tools/docs/configuration.py

Keys, types and defaults come from the schemas' dataclasses, their meaning from the docstrings, so the page
cannot say anything else than the code does; tests/test_docs.py checks that the committed page is up to date.
"""

import dataclasses
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from offsites_jax.data.pipeline import Loading
from offsites_jax.models.efficientnet_stages import StageSpec
from offsites_jax.models.registry import create_model, list_models
from offsites_jax.nn.norm import BatchNormSettings
from offsites_jax.parallel.mesh import MeshSettings
from offsites_jax.parallel.rules import Sharding
from offsites_jax.train.checkpoint import Keep
from offsites_jax.train.config import HARMLESS, Expected, Stage, Train
from offsites_jax.train.evaluation import EvaluatorSettings
from offsites_jax.train.optimizers import Optimizer, ParameterRule
from offsites_jax.train.project import BUILT_IN, find_project
from offsites_jax.train.schedules import Schedule
from offsites_jax.train.step import Ema
from offsites_jax.train.warm_start import InitFrom

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "configuration.md"

# Schema of every section that is the same for all projects, and of what backbones have in common.
SECTIONS: dict[str, type] = {
    "train": Train,
    "train.ema": Ema,
    "train.keep": Keep,
    "stages[i]": Stage,
    "optimizer": Optimizer,
    "optimizer.learning_rate": Schedule,
    "optimizer.settings[i]": ParameterRule,
    "mesh": MeshSettings,
    "sharding": Sharding,
    "init_from": InitFrom,
    "evaluators.NAME": EvaluatorSettings,
    "expected.METRIC": Expected,
    "data.loading": Loading,
}
BACKBONE_SECTIONS: dict[str, type] = {"norm": BatchNormSettings, "blocks[i]": StageSpec}
TITLES = {schema: title for title, schema in {**SECTIONS, **BACKBONE_SECTIONS}.items()}

SEE_ALSO = {
    "stages[i]": "What a stage may change, and how a run goes on in the right one: "
    "[experiments](experiments.md).",
    "sharding": "What the rules mean: [sharding](sharding.md).",
    "data.loading": "Sources, splits and damaged records: [data](data.md).",
    "blocks[i]": "An experiment writes a stage as a line of text such as `r2_k3_s1_e4_i24_o24_se0.25_c0`: "
    "**r**epeats, **k**ernel, **s**tride, **e**xpansion, **i**nput and **o**utput width, "
    "**se** ratio (0 unless given), **c1** for Fused-MBConv (**c0**, MBConv, unless given),"
    " as in google/automl.",
}

INTRODUCTION = """\
# Configuration reference

<!-- Written by tools/docs/configuration.py. Change the docstrings, then run it again. -->

An [experiment](experiments.md) has the sections below and no others. Any key can be overridden on the
command line: `--config.train.steps=100`. An unknown key, a missing one or a wrong type stops the run before
anything is compiled, with one line that names the key and the nearest known ones.

`project` is a name, not a section: one of `offsites list projects`. `optimizer` is one section, or, for a
system with several parameter groups, one section per group. `stages` is a list. `evaluators` and `expected`
are sections by name, the latter by metric: `test/accuracy`.

A run that goes on may change {harmless}, and nothing else.
"""


def main() -> None:
    PAGE.write_text(page())
    print(PAGE)


def page() -> str:
    """The whole page in Markdown."""
    *most, last = (f"`{name}`" for name in HARMLESS)
    parts = [INTRODUCTION.format(harmless=f"{', '.join(most)} and {last}")]
    parts += [section(title, schema) for title, schema in SECTIONS.items()]
    for folder in sorted(task.parent for task in BUILT_IN.glob("*/task.py")):
        parts += project(folder.name)
    return "\n".join([*parts, *models()])


def project(name: str) -> Iterator[str]:
    """The sections of one project."""
    found = find_project(name)
    yield f"## Project `{name}`\n"
    yield f"With `project: {name}`, the sections `model`, `task` and `data` are these.\n"
    for title, schema in (("model", "ModelConfig"), ("task", "TaskConfig"), ("data", "DataConfig")):
        yield section(title, getattr(found, schema), level=3)
    yield section("evaluators.NAME", found.EvaluatorConfig, level=3)


def models() -> Iterator[str]:
    """Settings of every class of backbones."""
    names: dict[type, list[str]] = {}
    for name in list_models():
        names.setdefault(type(create_model(name)), []).append(name)
    yield "## Backbones\n"
    yield "`model.overrides` may set any of these; what is left out is as published. The number of classes"
    yield "is `model.num_classes`, the type to compute in `train.precision`.\n"
    for module, variants in names.items():
        yield f"### {module.__name__}\n"
        yield f"{', '.join(f'`{name}`' for name in variants)}.\n"
        yield table(module, skip=("parent", "name", "num_classes", "dtype"))
    yield from (section(title, schema, level=3) for title, schema in BACKBONE_SECTIONS.items())


def section(title: str, schema: type, *, level: int = 2) -> str:
    """A heading, what the schema says of itself, and its fields."""
    first, *rest = inspect.cleandoc(schema.__doc__ or "").split("\n\n")
    about = "" if first.startswith(("Section", "One entry", "The `")) else f"{markdown(first)}\n\n"
    also = f"\n{SEE_ALSO[title]}\n" if title in SEE_ALSO else ""
    return f"{'#' * level} `{title}`\n\n{about}{table(schema)}{remarks(rest)}{also}"


def table(schema: type, skip: tuple[str, ...] = ()) -> str:
    """One row per field: key, type, default, meaning."""
    meanings, hints = attributes(schema), typing.get_type_hints(schema)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(schema):
        if field.name not in skip:
            meaning = markdown(meanings[field.name])
            rows.append(
                f"| `{field.name}` | {type_text(hints[field.name])} | {default_text(field)} | {meaning} |"
            )
    return "\n".join(rows) + "\n"


def attributes(schema: type) -> dict[str, str]:
    """Meaning by field, from the Attributes sections of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        block = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
        entries = re.split(r"^(?=\S)", inspect.cleandoc(block[1]) if block else "", flags=re.MULTILINE)
        for entry in filter(None, entries):
            names, _, meaning = " ".join(entry.split()).partition(": ")
            found |= {name.strip(): meaning for name in names.split(",")}
    return found


def remarks(paragraphs: list[str]) -> str:
    """What a docstring says beside its summary and its Attributes and Raises."""
    told = [text for text in paragraphs if not re.match(r"(Attributes|Raises|Example):", text)]
    return "".join(f"\n{markdown(' '.join(text.split()))}\n" for text in told)


def markdown(text: str) -> str:
    """The text with double backticks as single ones, fit for a table."""
    return text.replace("``", "`").replace("|", "\\|")


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default as Python writes it; nested sections refer to their own."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(field.default) or field.default is None:
        return ""
    text = repr(field.default)
    # A bar would end the cell, even inside backticks.
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def type_text(hint: Any) -> str:
    """A type in a reader's words: alternatives joined by "or", names without their modules."""
    return " or ".join(dict.fromkeys(one_type(option) for option in alternatives(hint)))


def alternatives(hint: Any) -> list[Any]:
    """The members of a union or a Literal, nested ones too, without None; else the type alone."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) in (typing.Union, typing.Literal):
        return [option for inner in typing.get_args(hint) for option in alternatives(inner)]
    return [] if hint is types.NoneType else [hint]


def one_type(hint: Any) -> str:
    """One type that is no union."""
    if isinstance(hint, str | int):
        return f"`{hint!r}`"
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis:
            return f"list of {type_text(inner[0])}"
        return f"({', '.join(type_text(item) for item in inner)})"
    if typing.get_origin(hint) is dict:
        return "section"
    if hint in TITLES:
        return f"[`{TITLES[hint]}`](#{anchor(TITLES[hint])})"
    return "any" if hint is Any else hint.__name__


def anchor(title: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w-]", "", title).lower()


if __name__ == "__main__":
    main()
