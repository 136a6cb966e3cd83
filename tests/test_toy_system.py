"""A new system is one folder and one experiment file; nothing else is edited."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

SYSTEMS = pathlib.Path(__file__).parent / "systems"


def offsites(*arguments, path, check=True):
    environment = {**os.environ, "OFFSITES_PATH": str(path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "offsites_jax.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_a_folder_and_an_experiment_file_are_a_system(tmp_path):
    shutil.copytree(SYSTEMS / "curve", tmp_path / "systems" / "ripple")
    text = (SYSTEMS / "curve_experiment.py").read_text().replace('"project": "curve"', '"project": "ripple"')
    experiment, path, workdir = tmp_path / "ripple.py", tmp_path / "systems", tmp_path / "run"
    experiment.write_text(text)

    done = offsites("train", experiment, "--workdir", workdir, "--json", path=path)
    assert json.loads(done.stdout)["step"] == 200
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < 0.25 * losses[0]
    tests = [line for line in lines if line["split"] == "test"]
    assert [line["step"] for line in tests] == [100, 200]
    assert all(line["points"] == 100 for line in tests), (
        "100 points in batches of 32, none dropped, none twice"
    )
    assert tests[-1]["worst"] < 0.5

    assert "hello world" in offsites("ripple", "greet", "--name", "world", path=path).stdout
    assert "ripple" in offsites("list", "projects", path=path).stdout

    changed = ("train", experiment, "--workdir", workdir, "--config.model.width=8")
    refused = offsites(*changed, path=path, check=False)
    assert refused.returncode == 2
    assert "model.width: null -> 8" in refused.stderr
