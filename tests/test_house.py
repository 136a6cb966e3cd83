"""Rules of the house that no linter knows."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "offsites_jax"

TAKES_GRADIENTS = {"grad", "value_and_grad", "vjp", "linearize"}
UPDATES_PARAMETERS = {"apply_updates", "apply_gradients"}


def names_called(tree):
    """Last parts of the names of everything called: jax.value_and_grad(f) gives value_and_grad."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}


@pytest.mark.parametrize("folder", ["offsites_jax", "experiments"])
def test_only_the_trainer_takes_gradients_and_updates_parameters(folder):
    offenders = []
    for file in (ROOT / folder).rglob("*.py"):
        called = names_called(ast.parse(file.read_text()))
        if PACKAGE / "train" not in file.parents and called & TAKES_GRADIENTS and called & UPDATES_PARAMETERS:
            offenders.append(str(file.relative_to(ROOT)))
    assert not offenders, f"a second train loop: {offenders}"


def test_the_rule_notices_a_second_loop():
    loop = "g = jax.value_and_grad(f)(p)\np = optax.apply_updates(p, tx.update(g))"
    assert names_called(ast.parse(loop)) & TAKES_GRADIENTS
    assert names_called(ast.parse(loop)) & UPDATES_PARAMETERS


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_is_instant_and_help_needs_no_jax():
    code = """
import sys, time
begin = time.perf_counter()
import offsites_jax
print(time.perf_counter() - begin)
import offsites_jax.cli.main
heavy = ("jax", "flax", "numpy", "optax", "tensorflow")
print(",".join(name for name in heavy if name in sys.modules) or "none")
"""
    seconds, heavy = zip(*(run_python(code) for _ in range(3)), strict=True)
    assert min(map(float, seconds)) < 0.3
    assert set(heavy) == {"none"}


def test_the_training_path_never_imports_tensorflow():
    code = """
import sys
import offsites_jax.train.loop, offsites_jax.train.restore, offsites_jax.data.source
import offsites_jax.projects.image_classification.task, offsites_jax.projects.image_classification.evaluate
import offsites_jax.export.folder
print("tensorflow" in sys.modules)
"""
    assert run_python(code) == ["False"]


def test_every_project_has_the_same_inner_plan():
    for task in (PACKAGE / "projects").glob("*/task.py"):
        files = {file.name for file in task.parent.iterdir()}
        assert {"README.md", "model.py", "task.py", "data.py", "evaluate.py", "jobs.py"} <= files, task.parent
        assert "utils.py" not in files


def test_every_experiment_says_how_to_run_it_and_what_to_expect():
    for file in (ROOT / "experiments").glob("*/*.py"):
        about = ast.get_docstring(ast.parse(file.read_text())) or ""
        assert f"offsites train {file.relative_to(ROOT)}" in about, file
        assert "Expect" in about, file
