"""What needs no TensorFlow; tools/checks/savedmodel.py checks the rest, where there is one."""

import ast
import json
import re
import sys

import pytest

from offsites_jax.errors import UserError
from offsites_jax.export.load import load
from offsites_jax.export.manifest import write_json
from offsites_jax.export.readme import savedmodel
from offsites_jax.export.savedmodel import SAVED_MODEL, SERVING
from offsites_jax.export.signature import Signature
from offsites_jax.export.write import write_folder

NEEDED = r"needs TensorFlow; pip install 'offsites-jax\[savedmodel\]'"


def test_writing_without_tensorflow_says_what_to_install(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=NEEDED) as caught:
        toy.write(tmp_path / "out", "savedmodel")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_loading_without_tensorflow_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, "format": "savedmodel"})
    with pytest.raises(UserError, match=NEEDED):
        load(folder)


def test_it_has_to_run_where_it_is_checked(toy, tmp_path):
    with pytest.raises(UserError, match="platforms: cpu is missing"):
        write_folder(
            toy.inference(platforms=("tpu",)), tmp_path / "out", format="savedmodel", facts=toy.facts
        )
    assert list(tmp_path.iterdir()) == []


def test_the_readme_calls_what_is_written(finished):
    """Its code parses, imports TensorFlow and NumPy alone, and names folder, signature and inputs."""
    text = savedmodel(Signature.read(finished))
    code = ast.parse(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    imported = {alias.name for node in ast.walk(code) if isinstance(node, ast.Import) for alias in node.names}
    words = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}
    assert imported == {"numpy", "tensorflow"}
    assert {SAVED_MODEL, SERVING, "pixels", "uint8", "word", "int32"} <= words
