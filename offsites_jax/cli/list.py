"""`offsites list`: models, experiments, projects."""

import argparse
import ast
import dataclasses
import pathlib

from offsites_jax.cli.common import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("what", choices=("models", "experiments", "projects"))
    parser.add_argument(
        "pattern", nargs="?", default="*", help="only names like this, e.g. 'efficientnet_v2_*'"
    )
    parser.add_argument("--folder", default="experiments", help="where experiment files are")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints one row per name."""
    rows = {"models": list_models, "experiments": list_experiments, "projects": list_projects}[options.what](
        options
    )
    if options.json:
        print_json(rows)
        return 0
    for row in rows:
        name, *rest = row.values()
        print(f"{name:<32} {'  '.join(f'{v:,}' if isinstance(v, int) else str(v) for v in rest)}")
    return 0


def list_models(options: argparse.Namespace) -> list[dict[str, object]]:
    """Name, parameters, statistics and evaluation size; nothing is allocated."""
    from offsites_jax.models.registry import list_models, model_info

    return [dataclasses.asdict(model_info(name)) for name in list_models(options.pattern)]


def list_experiments(options: argparse.Namespace) -> list[dict[str, object]]:
    """Files below the folder with the first line of their docstring."""
    files = sorted(pathlib.Path(options.folder).glob("*/*.py"))
    return [
        {"file": str(file), "about": (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]}
        for file in files
        if file.match(f"*/{options.pattern}") or file.match(f"*/{options.pattern}.py")
    ]


def list_projects(options: argparse.Namespace) -> list[dict[str, object]]:
    """Projects of the package and those on OFFSITES_PATH."""
    from offsites_jax.train.project import list_projects

    return [{"name": name, "folder": str(folder)} for name, folder in sorted(list_projects().items())]
