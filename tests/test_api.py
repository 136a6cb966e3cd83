"""The Python API as a notebook uses it."""

import pathlib

import numpy as np
import pytest

import offsites_jax
from offsites_jax.errors import UserError
from offsites_jax.train.evaluation import host_rows

SYSTEMS = pathlib.Path(__file__).parent / "systems"


def test_train_restore_and_evaluate_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFSITES_PATH", str(SYSTEMS))
    overrides = {"train.steps": "20", "train.eval_every": "10"}
    experiment = offsites_jax.load_experiment(SYSTEMS / "curve_experiment.py", overrides)
    result = offsites_jax.train(experiment, tmp_path)
    assert int(result.state.step) == 20

    model = offsites_jax.restore(tmp_path)
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    live = experiment.final.found.create_task(experiment.final, np.float32).predict(
        result.state.variables(), {"x": x}
    )
    np.testing.assert_allclose(model.predict({"x": x})["y"], live["y"], rtol=1e-5)

    step, scores = offsites_jax.evaluate(experiment, tmp_path)
    assert step == 20
    assert scores == pytest.approx(dict(result.scores)), (
        "the last stage's evaluation, whatever view was given"
    )

    raw = offsites_jax.restore(tmp_path, params="raw").predict({"x": x})["y"]
    assert not np.allclose(raw, live["y"]), "averaged and raw parameters differ"


def test_models_by_name():
    assert "efficientnet_v2_s" in offsites_jax.list_models("efficientnet_v2_*")
    with pytest.raises(UserError, match="efficientnet_v2_s"):
        offsites_jax.create_model("efficientnetv2_s")


def test_an_output_may_not_hide_a_batch_entry():
    batch = {"y": np.zeros(2), "mask": np.ones(2)}
    with pytest.raises(ValueError, match=r"both have \['y'\]"):
        next(host_rows(lambda batch: {"y": np.ones(2)}, iter([batch]), keep=("y",)))
