"""A new system is one folder and one experiment file; nothing else is edited."""

import json
import os
import subprocess
import sys
import textwrap

FILES = {
    "model.py": '''
        """A line."""
        import dataclasses

        @dataclasses.dataclass(frozen=True)
        class ModelConfig:
            """Section `model`."""
            start: float = 0.0
    ''',
    "task.py": '''
        """Fits y = 3 x + 1."""
        import dataclasses
        import jax
        import jax.numpy as jnp
        from offsites_jax.train.contract import Loss, Mean, Objective, Task

        @dataclasses.dataclass(frozen=True)
        class TaskConfig:
            """Section `task`."""

        @dataclasses.dataclass(frozen=True)
        class Line(Task):
            """y = w x + b."""
            start: float
            inputs = ("x",)

            def init(self, rng, batch):
                return {"params": {"w": jnp.full((), self.start), "b": jnp.zeros(())}}

            @property
            def objectives(self):
                return (Objective("fit", self.loss),)

            def loss(self, params, model_state, batch, rng, step):
                y = self.predict({"params": params}, batch)["y"]
                return Loss({"squared": Mean.of((y - batch["y"]) ** 2)}, model_state)

            def predict(self, variables, batch):
                return {"y": variables["params"]["w"] * batch["x"] + variables["params"]["b"]}

            def batch_spec(self, batch_size):
                return {name: jax.ShapeDtypeStruct((batch_size,), jnp.float32) for name in ("x", "y")}

        def create_task(experiment, dtype):
            """The task."""
            return Line(experiment.model.start)
    ''',
    "data.py": '''
        """Points on a line."""
        import dataclasses
        import numpy as np
        from offsites_jax.data.pipeline import Loading, Pipeline
        from offsites_jax.data.source import ArraySource

        @dataclasses.dataclass(frozen=True)
        class DataConfig:
            """Section `data`."""
            train_split: str = "train"
            loading: Loading = Loading()

        def create_pipeline(experiment, split, train):
            """x in -1..1."""
            x = np.linspace(-1, 1, 64, dtype=np.float32)
            return Pipeline(ArraySource({"x": x, "y": 3 * x + 1}), lambda record, rng: record)

        def create_input_pipeline(experiment, paths):
            """None: nothing to read."""
            raise NotImplementedError
    ''',
    "evaluate.py": '''
        """Largest error."""
        import dataclasses
        from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, host_rows

        EvaluatorConfig = EvaluatorSettings

        class Worst(Evaluator):
            """Largest absolute error."""
            def run(self, predict, batches, artifacts):
                rows = list(host_rows(predict, batches, keep=("x",)))
                worst = max(abs(r["y"] - (3 * r["x"] + 1)).max() for r in rows)
                return {"rows": sum(len(r["y"]) for r in rows), "worst": worst}

        def create_evaluator(experiment, settings):
            """The evaluator."""
            return Worst()
    ''',
    "jobs.py": '''
        """Jobs."""

        def greet(name: str = "line") -> None:
            """Says hello."""
            print(f"hello {name}")

        JOBS = {"greet": greet}
    ''',
}

EXPERIMENT = '''
"""A toy."""
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        project="line",
        optimizer=dict(name="sgd", learning_rate=0.3),
        train=dict(steps=60, batch_size=16, log_every=20),
        mesh=dict(data=4, fsdp=2, cpu_devices=8),
        evaluators=dict(test=dict(split="test")),
    ))
'''


def offsites(*arguments, path, check=True):
    environment = {**os.environ, "OFFSITES_PATH": str(path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "offsites_jax.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_a_folder_and_an_experiment_file_are_a_system(tmp_path):
    folder = tmp_path / "systems" / "line"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    (tmp_path / "toy.py").write_text(EXPERIMENT)
    path = tmp_path / "systems"

    done = offsites("train", tmp_path / "toy.py", "--workdir", tmp_path / "run", "--json", path=path)
    assert json.loads(done.stdout)["step"] == 60
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < 1e-3 < losses[0]
    (test,) = [line for line in lines if line["split"] == "test"]
    assert test["rows"] == 64
    assert test["worst"] < 0.05

    assert "hello world" in offsites("line", "greet", "--name", "world", path=path).stdout
    assert "line" in offsites("list", "projects", path=path).stdout

    refused = offsites(
        "train",
        tmp_path / "toy.py",
        "--workdir",
        tmp_path / "run",
        "--config.model.start=1.0",
        path=path,
        check=False,
    )
    assert refused.returncode == 2
    assert "model.start: null -> 1.0" in refused.stderr
