"""Finds a project by name, only when an experiment asks for it.

A project is a folder: `offsites_jax/projects/<name>/`, or `<name>/` in a folder listed in the environment
variable OFFSITES_PATH. Its parts are found by file and name, so adding a system edits nothing else.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import types
from typing import Any

from offsites_jax.errors import UserError
from offsites_jax.train.schema import nearest

BUILT_IN = pathlib.Path(__file__).parents[1] / "projects"

# What each file of a project must define.
PARTS = {
    "model": ("ModelConfig",),
    "task": ("TaskConfig", "create_task"),
    "data": ("DataConfig", "create_pipeline", "create_input_pipeline"),
    "evaluate": ("EvaluatorConfig", "create_evaluator"),
}


class Project:
    """The parts of one project, imported when first used.

    Attributes:
      name: the folder's name.
      folder: where it is.

    """

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.name, self.folder = name, folder
        self._package = _package(name, folder)

    def __getattr__(self, part: str) -> Any:
        """`ModelConfig`, `create_task` ...: looked up in the file that `PARTS` names."""
        file = next((file for file, names in PARTS.items() if part in names), None)
        if file is None:
            raise AttributeError(part)
        module = self.module(file)
        if not hasattr(module, part):
            raise UserError(f"{self.folder / file}.py: defines no {part}; every project needs it")
        return getattr(module, part)

    def module(self, file: str) -> types.ModuleType:
        """The module of one file of the project, such as "jobs"."""
        if not (self.folder / f"{file}.py").exists():
            raise UserError(f"{self.folder}: project {self.name!r} has no {file}.py")
        return importlib.import_module(f"{self._package}.{file}")


def find_project(name: str) -> Project:
    """The project of that name.

    Raises:
      UserError: no folder of that name; lists the nearest known ones.

    """
    folders = list_projects()
    if name not in folders:
        raise UserError(f"config.project: no project {name!r}{nearest(name, folders)}")
    return Project(name, folders[name])


def list_projects() -> dict[str, pathlib.Path]:
    """Folder by name of every project; those on OFFSITES_PATH come first."""
    roots = [pathlib.Path(p) for p in os.environ.get("OFFSITES_PATH", "").split(os.pathsep) if p]
    found: dict[str, pathlib.Path] = {}
    for root in [*roots, BUILT_IN]:
        for task in sorted(root.glob("*/task.py")):
            found.setdefault(task.parent.name, task.parent)
    return found


def _package(name: str, folder: pathlib.Path) -> str:
    """Dotted name the folder's files can be imported under."""
    if folder.parent == BUILT_IN:
        return f"offsites_jax.projects.{name}"
    package = f"offsites_external_{name}"
    if package not in sys.modules:
        # A namespace of its own: two roots may hold folders of the same name as installed packages.
        module = types.ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
    return package
