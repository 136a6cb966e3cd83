"""Reading runs from outside: parameters alone, notes, verification and comparison."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train import digest, saved, stored
from offsites_jax.train.checkpoint import Checkpoints, Keep

KERNEL = np.arange(32, dtype=np.float32).reshape(8, 4)


def make_state(value, *, averaged=True):
    params = {"dense": {"kernel": jnp.asarray(KERNEL + value), "bias": jnp.full(3, value, jnp.bfloat16)}}
    model_state = {"batch_stats": {"mean": jnp.full(3, value, jnp.float32)}}
    average = jax.tree.map(lambda leaf: leaf * 2, {"params": params, "model_state": model_state})
    return {
        "step": jnp.int32(value),
        "params": params,
        "model_state": model_state,
        "opt_state": {"main": {"mu": {"params": jnp.zeros(9)}}},
        "ema": average if averaged else None,
    }


def write(workdir, *states, keep=Keep(), scores=()):
    with Checkpoints(workdir / saved.FOLDER, keep) as checkpoints:
        for step, state in enumerate(states, start=1):
            metrics = {"score": scores[step - 1]} if scores else None
            checkpoints.save(step, state, {"config": {"step": step}}, metrics)
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three checkpoints; the second is the best."""
    states = [make_state(value) for value in (1, 2, 3)]
    return write(tmp_path_factory.mktemp("run"), *states, keep=Keep(best="score"), scores=[0.1, 0.9, 0.5])


@pytest.mark.parametrize(
    ("step", "params", "found", "kernel"),
    [
        ("latest", "ema", 3, (KERNEL + 3) * 2),
        ("latest", "raw", 3, KERNEL + 3),
        ("best", "ema", 2, (KERNEL + 2) * 2),
        (1, "raw", 1, KERNEL + 1),
    ],
)
def test_parameters_and_model_state_come_without_the_rest(run, step, params, found, kernel):
    restored = saved.restore_variables(run, step=step, params=params)
    assert (restored.step, restored.meta) == (found, {"config": {"step": found}})
    assert sorted(digest.named_leaves(restored.variables)) == [
        "batch_stats/mean",
        "params/dense/bias",
        "params/dense/kernel",
    ]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored.variables))
    np.testing.assert_array_equal(restored.variables["params"]["dense"]["kernel"], kernel)
    mean = found * (2 if params == "ema" else 1)
    np.testing.assert_array_equal(restored.variables["batch_stats"]["mean"], np.full(3, mean, np.float32))


def test_they_can_be_placed_on_a_mesh(run):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data", "fsdp"), ()))
    abstract = {
        "params": {
            "dense": {
                "kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=split),
                "bias": jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=copied),
            }
        },
        "batch_stats": {"mean": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=copied)},
    }
    variables = saved.restore_variables(run, abstract, params="raw").variables
    assert jax.tree.map(lambda leaf: leaf.sharding, variables) == jax.tree.map(
        lambda leaf: leaf.sharding, abstract
    )
    np.testing.assert_array_equal(variables["params"]["dense"]["kernel"], KERNEL + 3)
    del abstract["params"]["dense"]["bias"]
    with pytest.raises(UserError, match=r"params/dense/bias is bfloat16\[3\] there and missing in the model"):
        saved.restore_variables(run, abstract)


def record_reads(monkeypatch):
    """Names of the leaves of each read from now on."""
    asked = []
    read_arrays = stored.read_arrays

    def record(checkpoint, wanted):
        asked.append(list(wanted))
        return read_arrays(checkpoint, wanted)

    monkeypatch.setattr(stored, "read_arrays", record)
    return asked


def test_only_the_leaves_asked_for_are_read(run, monkeypatch):
    asked = record_reads(monkeypatch)
    variables = saved.SavedVariables(run, 1, "raw")
    assert asked == []
    found = variables.read({"params/dense/bias": variables.leaves["params/dense/bias"]})
    assert [list(names) for names in asked] == [list(found)] == [["params/dense/bias"]]
    with pytest.raises(UserError, match="params/other is missing there"):
        variables.read({"params/other": variables.leaves["params/dense/bias"]})


def test_a_run_without_averages_gives_the_raw_parameters(tmp_path):
    write(tmp_path, make_state(5, averaged=False))
    variables = saved.restore_variables(tmp_path, params="ema").variables
    np.testing.assert_array_equal(variables["params"]["dense"]["kernel"], KERNEL + 5)


def test_a_leaf_the_files_lack_is_damage_and_not_a_placeholder(run, monkeypatch):
    body = stored.read_body(run / saved.FOLDER / "1")
    body["leaves"]["params/ghost"] = {"dtype": "float32", "shape": [2], "digest": ""}
    monkeypatch.setattr(stored, "read_body", lambda _: body)
    with pytest.raises(DamagedDataError, match="leaf params/ghost is not in the files"):
        saved.restore_variables(run, step=1, params="raw")


def test_damage_is_an_error_and_nothing_is_renamed(tmp_path):
    folder = write(tmp_path, make_state(1), make_state(2)) / saved.FOLDER
    for file in (folder / "2" / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"checkpoint .*/2 is damaged"):
        saved.restore_variables(tmp_path)
    assert saved.restore_variables(tmp_path, step=1).step == 1
    assert sorted(os.listdir(folder)) == ["1", "2"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (7, r"no checkpoint of step 7 .* it has \[1\]"),
        ("best", "ranks them by no metric"),
        ("last", "choose 'latest'"),
    ],
)
def test_a_step_that_is_not_there_is_the_users_error(tmp_path, step, message):
    write(tmp_path, make_state(1))
    with pytest.raises(UserError, match=message):
        saved.read_meta(tmp_path, step)


def test_without_a_run_there_is_nothing_to_read(tmp_path):
    for read in (saved.read_meta, saved.restore_variables, saved.verify):
        with pytest.raises(UserError, match="is this the workdir of a run"):
            read(tmp_path)


def test_the_note_of_the_loop_can_be_read_alone(run):
    assert saved.read_meta(run) == {"config": {"step": 3}}
    assert saved.read_meta(run / saved.FOLDER, "best") == {"config": {"step": 2}}


def test_verification_names_what_is_damaged(tmp_path):
    folder = write(tmp_path, make_state(1), make_state(2), make_state(3)) / saved.FOLDER
    meta = folder / "2" / "meta" / "metadata"
    body = meta.read_text()
    digest_of_bias = stored.read_body(folder / "2")["leaves"]["params/dense/bias"]["digest"]
    meta.write_text(body.replace(digest_of_bias, "0" * 16))
    (folder / "3" / "state" / "_METADATA").unlink()
    one, two, three = saved.verify(tmp_path)
    assert (one.step, one.sealed, one.sound, one.files) == (1, True, True, {})
    assert len(one.leaves) == 8
    assert (two.sound, two.files) == (False, {"meta/metadata": "does not match its checksum"})
    assert (three.sound, three.files) == (False, {"state/_METADATA": "is missing"})


def test_verification_names_the_leaf_whose_bytes_changed(tmp_path, monkeypatch):
    write(tmp_path, make_state(1))
    read_arrays = stored.read_arrays

    def read_wrongly(checkpoint, wanted):
        if len(wanted) > 1:
            raise ValueError("DATA_LOSS: checksum of a chunk")
        (name,) = wanted
        if name == "params/dense/bias":
            raise ValueError("DATA_LOSS: checksum of a chunk")
        array = read_arrays(checkpoint, wanted)[name]
        return {name: array + 1 if name == "step" else array}

    monkeypatch.setattr(stored, "read_arrays", read_wrongly)
    (report,) = saved.verify(tmp_path)
    assert {name: why for name, why in report.leaves.items() if why} == {
        "step": "does not match its digest",
        "params/dense/bias": "cannot be read (DATA_LOSS: checksum of a chunk)",
    }


def test_large_states_are_verified_piece_by_piece(run, monkeypatch):
    monkeypatch.setattr(stored, "_READ_BYTES", 8 * 40)
    asked = record_reads(monkeypatch)
    reports = saved.verify(run)
    assert all(report.sound for report in reports)
    assert len(asked) > len(reports)
    assert sum(map(len, asked)) == sum(len(report.leaves) for report in reports)


def test_a_run_does_not_differ_from_itself(run):
    assert saved.diff(run, run) == []
    assert saved.diff(run, run / saved.FOLDER, step=2) == []


def test_differences_of_two_runs_by_leaf(tmp_path):
    a, b = make_state(1), make_state(1)
    b["params"]["dense"]["kernel"] = a["params"]["dense"]["kernel"].at[2, 3].add(-0.5)
    b["params"]["dense"]["bias"] = jnp.ones(4, jnp.bfloat16)
    b["model_state"]["batch_stats"]["mean"] = jnp.full(3, -0.0)
    a["model_state"]["batch_stats"]["mean"] = jnp.zeros(3)
    b["step"] = jnp.float32(1)
    a["ema"], b["opt_state"] = None, {"main": {"mu": {"params": jnp.array([0.0] * 8 + [jnp.inf])}}}
    found = dict(saved.diff(write(tmp_path / "a", a), write(tmp_path / "b", b, b), step=None))
    assert found.pop("ema/params/dense/kernel") == f"missing in {tmp_path / 'a' / saved.FOLDER / '1'}"
    assert {name for name in found if name.startswith("ema/")} == {
        "ema/params/dense/bias",
        "ema/model_state/batch_stats/mean",
    }
    assert {name: value for name, value in found.items() if not name.startswith("ema/")} == {
        "params/dense/kernel": 0.5,
        "params/dense/bias": "shape [3] and [4]",
        "model_state/batch_stats/mean": "signs of zeros or kinds of NaN",
        "step": "dtype int32 and float32",
        "opt_state/main/mu/params": np.inf,
    }
    with pytest.raises(UserError, match=r"have no common step 2; both have \[1\]"):
        saved.diff(tmp_path / "a", tmp_path / "b", step=2)
