"""A protocol trained side by side: its cells are those of trainings one by one, also after being killed."""

import functools
import json

import jax
import numpy as np
import pytest

from offsites_jax.errors import Preempted
from offsites_jax.projects.one_class.jobs import protocol, rescore
from offsites_jax.projects.one_class.protocol import stacked
from offsites_jax.train.restore import restore
from offsites_jax.train.saved import verify
from offsites_jax.train.stored import saved_steps

FILE = """
def get_config():
    return {
        "project": "one_class",
        "model": {"name": "resnet_10", "width": 0.0625, "head": [8], "overrides": {"depths": [1]}},
        "task": {"pretext": {"name": "rotation"}},
        "data": {"source": "digits", "category": "0", "image_size": 8},
        "optimizer": {"name": "momentum", "learning_rate": 0.02},
        "train": {"steps": 2, "batch_size": 8},
        "mesh": {"data": 1, "cpu_devices": 8},
    }
"""
RUN = {"categories": ("6", "4"), "seeds": (0, 1), "scorers": ("knn", "logit")}


def figures(folder, cell):
    return json.loads((folder / cell / "cell.json").read_text())["figures"]


def test_cells_of_a_stack_are_those_of_single_trainings(tmp_path, monkeypatch, capsys):
    file, folder = tmp_path / "tiny.py", tmp_path / "side_by_side"
    file.write_text(FILE)
    protocol(str(file), str(tmp_path / "alone"), **{**RUN, "categories": ("6",), "seeds": (1,)})

    with monkeypatch.context() as patch:
        patch.setattr(stacked, "train", functools.partial(stacked.train, stop_at=1))
        with pytest.raises(Preempted):
            protocol(str(file), str(folder), **RUN, stacked=True)
    assert saved_steps(folder / "stacks/0/checkpoints") == [1]

    write = stacked._write
    with monkeypatch.context() as patch:

        def once(workdir, *rest):
            if "4" in workdir.parts:
                raise OSError("killed")
            write(workdir, *rest)

        patch.setattr(stacked, "_write", once)
        with pytest.raises(OSError, match="killed"):
            protocol(str(file), str(folder), **RUN, stacked=True)
    assert saved_steps(folder / "6/seed_0/run/checkpoints") == [2]
    assert not (folder / "4/seed_0/run").exists()
    lines = (folder / "stacks/0/metrics.jsonl").read_text()

    protocol(str(file), str(folder), **RUN, stacked=True)
    assert (folder / "stacks/0/metrics.jsonl").read_text() == lines, "nothing was trained again"
    assert not (folder / "stacks/0/checkpoints").exists()
    assert not (folder / "stacks/1").exists()
    assert len(json.loads((folder / "table.json").read_text())["cells"]) == 4
    alone, member = (restore(root / "6/seed_1/run") for root in (tmp_path / "alone", folder))
    assert member.step == 2
    for ours, theirs in zip(jax.tree.leaves(member.variables), jax.tree.leaves(alone.variables), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert figures(folder, "6/seed_1") == pytest.approx(figures(tmp_path / "alone", "6/seed_1"), abs=0.05)
    assert figures(folder, "6/seed_1") != pytest.approx(figures(folder, "6/seed_0"), abs=0.05)
    assert all(report.sound for report in verify(folder / "4/seed_1/run"))
    capsys.readouterr()
    rescore(str(folder / "4/seed_1/run"), scorers=("knn",))
    assert json.loads(capsys.readouterr().out)["auc"] == pytest.approx(figures(folder, "4/seed_1")["auc"])

    # What was trained alone before is left as it is.
    protocol(str(file), str(tmp_path / "alone"), **{**RUN, "categories": ("6",)}, stacked=True)
    config = json.loads((tmp_path / "alone/stacks/0/config.json").read_text())
    assert config["task"]["stack"]["seeds"] == [0]
    assert figures(tmp_path / "alone", "6/seed_0") == pytest.approx(figures(folder, "6/seed_0"), abs=0.05)


def test_a_member_whose_loss_is_lost_fails_as_it_does_alone(tmp_path):
    file, folder = tmp_path / "tiny.py", tmp_path / "table"
    file.write_text(FILE)
    run = {**RUN, "categories": ("6",), "seeds": (0,), "overrides": ("optimizer.learning_rate=1e30",)}
    protocol(str(file), str(folder), **run, stacked=True)
    assert json.loads((folder / "stacks/0/written.json").read_text()) == {"left out": ["6, seed 0"]}
    cell = json.loads((folder / "6/seed_0/cell.json").read_text())
    assert cell["status"] == "failed"
    assert cell["error"].startswith("NonFiniteLossError")
