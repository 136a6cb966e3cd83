import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.export.folder import export, git_revision
from offsites_jax.export.load import load
from offsites_jax.train.checkpoint import Checkpoints, Keep
from offsites_jax.train.state import TrainState

MODEL = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class ModelConfig:
    classes: int = 8
"""
# No create_pipeline: an export must not ask for data.
DATA = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class DataConfig:
    features: int = 4
"""
TASK = """
import dataclasses
import flax.linen as nn
import jax
import jax.numpy as jnp
from offsites_jax.train.contract import Task

@dataclasses.dataclass(frozen=True)
class TaskConfig:
    gain: float = 1.0

class Model(nn.Module):
    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(self.classes, dtype=self.dtype, name="head")(x)

@dataclasses.dataclass(frozen=True)
class ToyTask(Task):
    model: nn.Module
    features: int
    gain: float

    inputs = ("x",)
    objectives = ()

    def init(self, rng, batch):
        return self.model.init(rng, batch["x"])

    def predict(self, variables, batch):
        return {"logits": self.gain * self.model.apply(variables, batch["x"])}

    def batch_spec(self, batch_size):
        return {
            "x": jax.ShapeDtypeStruct((batch_size, self.features), jnp.float32),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

def create_task(experiment, dtype):
    model = Model(experiment.model.classes, dtype)
    return ToyTask(model, experiment.data.features, experiment.task.gain)
"""
CONFIG = {
    "project": "export_toy",
    "model": {"classes": 8},
    "task": {"gain": 1.0},
    "data": {"features": 4},
    "train": {"steps": 20, "batch_size": 8, "ema": {"decay": 0.9}},
    "mesh": {"data": 2, "fsdp": 4},
    "stages": [{"name": "low", "until": 10}, {"name": "high", "task": {"gain": 3.0}}],
}


def variables(seed):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    params = {
        "norm": {"scale": draw(4), "bias": draw(4)},
        "head": {"kernel": draw((4, 8)), "bias": draw(8)},
    }
    model_state = {"batch_stats": {"norm": {"mean": draw(4), "var": 1 + rng.random(4)}}}
    return jax.tree.map(np.float32, {"params": params, "model_state": model_state})


def closed_form(saved, x):
    params, stats = saved["params"], saved["model_state"]["batch_stats"]["norm"]
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    return 3.0 * (x @ params["head"]["kernel"] + params["head"]["bias"])  # the gain of the last stage


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A run of a system from outside the package: sharded over 8 devices, two checkpoints, averages kept."""
    project = tmp_path / "systems/export_toy"
    project.mkdir(parents=True)
    for name, text in {"model": MODEL, "data": DATA, "task": TASK}.items():
        (project / f"{name}.py").write_text(text)
    monkeypatch.setenv("OFFSITES_PATH", str(tmp_path / "systems"))
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def place(leaf):
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "fsdp")))

    keep = Keep(best="test/accuracy")
    with Checkpoints(tmp_path / "run/checkpoints", keep, asynchronous=False) as checkpoints:
        for step, accuracy in ((10, 0.75), (20, 0.5)):
            raw, ema = jax.tree.map(place, (variables(step), variables(step + 1)))
            state = TrainState(jnp.int32(step), raw["params"], raw["model_state"], {}, ema)
            checkpoints.save(step, state, {"config": CONFIG}, {"test/accuracy": accuracy})
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("step", "params", "found", "seed"),
    [("latest", "ema", 20, 21), ("best", "ema", 10, 11), (10, "raw", 10, 10)],
)
def test_checkpoint_to_export(workdir, tmp_path, monkeypatch, step, params, found, seed):
    report = export(workdir, tmp_path / "out", step=step, params=params, platforms=("cpu", "cuda"))
    assert (report.step, report.format) == (found, "stablehlo")
    monkeypatch.delenv("OFFSITES_PATH")
    exported = load(tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    logits = exported.predict({"x": x})["logits"]
    np.testing.assert_allclose(logits, closed_form(variables(seed), x), atol=1e-4)
    assert exported.manifest["config"] == json.loads((tmp_path / "out/config.json").read_text()) == CONFIG
    assert exported.manifest["step"] == found
    assert exported.manifest["params"] == params
    assert exported.manifest["metrics"] == {"test/accuracy": {10: 0.75, 20: 0.5}[found]}
    assert exported.manifest["compute_dtype"] == "float32"
    assert exported.manifest["exported_with"]["jax"] == jax.__version__
    assert exported.signature.platforms == ("cpu", "cuda")


def test_no_such_checkpoint(workdir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint of step 15"):
        export(workdir, tmp_path / "out", step=15)
    assert not (tmp_path / "out").exists()


def test_code_that_changed_since_training(workdir, tmp_path):
    """The saved configuration asks for variables that the checkpoint does not hold."""
    changed = {**CONFIG, "model": {"classes": 5}}
    with Checkpoints(workdir / "checkpoints", asynchronous=False) as checkpoints:
        whole = variables(0)
        state = TrainState(jnp.int32(30), whole["params"], whole["model_state"], {}, None)
        checkpoints.save(30, jax.tree.map(jnp.asarray, state), {"config": changed})
    with pytest.raises(UserError, match="params/head"):
        export(workdir, tmp_path / "out")


def test_git_revision(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    file = tmp_path / "module.py"
    file.write_text("one")
    assert git_revision(file) == ""
    git("init")
    assert git_revision(file) == ""
    git("add", "module.py")
    git("commit", "-m", "one")
    assert git_revision(file) == git("rev-parse", "HEAD")
    file.write_text("two")
    assert git_revision(file) == git("rev-parse", "HEAD") + "-dirty"
