"""Checkpoints come back bit for bit, on any mesh, or not at all; the good ones outlive all damage."""

import contextlib
import errno
import functools
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train import digest, saved, stored
from offsites_jax.train.checkpoint import Checkpoints, Keep

# Reading a damaged file leaves futures of TensorStore behind that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OPTIMIZER = optax.chain(optax.clip(1.0), optax.adamw(1e-3))


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any


@functools.cache
def mesh(*shape):
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def sharding(leaf, shape, spec):
    """Matrices are split, all else is copied."""
    return NamedSharding(mesh(*shape), PartitionSpec(*(spec if leaf.ndim == 2 and leaf.size else ())))


def make_state(seed, width=32):
    """Every kind of leaf that a train state may have, with values that depend on the seed."""
    random = np.random.default_rng(seed)
    params = {"dense": {"kernel": random.normal(size=(32, width)), "bias": random.normal(size=5)}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    return State(
        step=jnp.int32(seed),
        params=params,
        model_state={
            "batch_stats": {"mean": jnp.asarray(random.normal(size=3), jnp.bfloat16)},
            "flags": {"seen": jnp.asarray(random.integers(0, 2, 4), bool), "none": jnp.zeros((0, 2))},
        },
        opt_state={"main": OPTIMIZER.init(params), "key": jax.random.key(seed)},
        ema={"params": jax.tree.map(lambda leaf: leaf + 1, params), "model_state": {}},
    )


def place(state, shape=(8, 1), spec=("data",)):
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf, shape, spec)), state)


def abstract_of(state, shape=(8, 1), spec=("data",)):
    def describe(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf, shape, spec))

    return jax.tree.map(describe, state)


ABSTRACT = abstract_of(jax.eval_shape(lambda: make_state(0)))


def bits(tree):
    """Every leaf as bytes, by name."""
    leaves = digest.named_leaves(tree)
    keys = {name for name, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)}
    data = {name: jax.random.key_data(leaf) if name in keys else leaf for name, leaf in leaves.items()}
    return {name: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for name, leaf in data.items()}


def write(folder, *steps, keep=Keep(last=100)):
    """A folder with the checkpoints of these steps, each of the state seeded by its step."""
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"seed": step})
    return pathlib.Path(folder)


def restored_step(folder):
    """Restores, and checks that step, state and meta belong together."""
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(ABSTRACT)
    if restored is None:
        return None
    assert restored.meta == {"seed": restored.step}
    assert bits(restored.state) == bits(make_state(restored.step))
    return restored.step


def names(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def files_of(folder):
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def random_flips(folder, count, seed=0):
    """Files and bits: `count` drawn evenly from all bits, then one in each file."""
    files, random = files_of(folder), np.random.default_rng(seed)
    sizes = np.array([8 * file.stat().st_size for file in files])
    ends = np.cumsum(sizes)
    for bit in random.integers(ends[-1], size=count):
        index = int(np.searchsorted(ends, bit, side="right"))
        yield files[index], int(bit - ends[index] + sizes[index])
    for file, size in zip(files, sizes, strict=True):
        yield file, int(random.integers(size))


# Saving and restoring


@pytest.mark.parametrize(
    ("shape", "spec"), [((8, 1), ("data",)), ((4, 2), ("data", "fsdp")), ((2, 4), (None, "fsdp"))]
)
def test_a_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, shape, spec):
    state = place(make_state(7))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {"config": {"sizes": (1, 2)}, 3: None})
        restored = checkpoints.restore(abstract_of(state, shape, spec))
    assert (restored.step, restored.meta) == (7, {"config": {"sizes": [1, 2]}, "3": None})
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert bits(restored.state) == bits(state)
    for leaf in jax.tree.leaves(restored.state):
        assert leaf.sharding.is_equivalent_to(sharding(leaf, shape, spec), leaf.ndim)


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(ABSTRACT) is None
        assert (checkpoints.all_steps(), checkpoints.latest_step()) == ([], None)


def test_arrays_may_be_donated_right_after_save_and_right_after_restore(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2 + 1, state), donate_argnums=0)
    first = {"split": np.arange(2**20, dtype=np.float32).reshape(1024, 1024), "copied": np.arange(500.0)}
    state = place(jax.tree.map(jnp.asarray, first), (4, 2), ("data", "fsdp"))
    abstract = abstract_of(state, (4, 2), ("data", "fsdp"))
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {})
            for _ in range(3):
                state = overwrite(state)
        state = checkpoints.restore(abstract, step=1).state
    for _ in range(6):
        state = overwrite(state)
    for name, leaf in first.items():
        np.testing.assert_array_equal(state[name], leaf.astype(np.float32) * 64 + 63)


def test_a_step_that_is_not_new_is_refused(tmp_path):
    write(tmp_path, 5)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (5, 4):
            with pytest.raises(UserError, match=rf"cannot save step {step}: .* holds step 5"):
                checkpoints.save(step, make_state(step), {})
    assert restored_step(tmp_path) == 5


def test_one_step_can_be_asked_for(tmp_path):
    folder = write(tmp_path, 1, 2, 3)
    flip(folder / "3" / "meta" / "metadata", 100)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(ABSTRACT, step=1).step == 1
        with pytest.raises(UserError, match=r"no checkpoint of step 4 .* it has \[1, 2, 3\]"):
            checkpoints.restore(ABSTRACT, step=4)
        with pytest.raises(DamagedDataError, match="3 is damaged"):
            checkpoints.restore(ABSTRACT, step=3)
    assert names(folder) == ["1", "2", "3"]


def test_a_checkpoint_of_another_model_is_the_users_error_and_stays(tmp_path):
    write(tmp_path, 1)
    narrow = abstract_of(jax.eval_shape(lambda: make_state(0, width=16)))
    halved = jax.tree.map(lambda leaf: leaf.update(dtype=jnp.bfloat16) if leaf.ndim == 2 else leaf, ABSTRACT)
    other = ABSTRACT.replace(params={"conv": ABSTRACT.params["dense"]}, ema=None)
    with Checkpoints(tmp_path) as checkpoints:
        for model, message in [
            (narrow, r"params/dense/kernel is float32\[32, 32\] there and float32\[32, 16\] in the model"),
            (halved, r"params/dense/kernel is float32\[32, 32\] there and bfloat16\[32, 32\] in the model"),
            (other, r"params/dense/bias is float32\[5\] there and missing in the model.* \(and 3 more\)"),
        ]:
            with pytest.raises(UserError, match=message):
                checkpoints.restore(model)
    assert restored_step(tmp_path) == 1


# Which ones stay


def steps_after(folder, keep, scores):
    """Saves one step per score (None saves without metrics), each by a manager of its own."""
    for step, score in enumerate(scores, start=1):
        with Checkpoints(folder, keep) as checkpoints:
            metrics = None if score is None else {"test/accuracy": score, "other": -step}
            checkpoints.save(step, {"x": jnp.zeros(2)}, {}, metrics)
    with Checkpoints(folder, keep) as checkpoints:
        return checkpoints.all_steps(), checkpoints.best_step()


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (Keep(last=2), ([6, 7], None)),
        (Keep(last=1, every=3), ([3, 6, 7], None)),
        (Keep(last=1, best="test/accuracy"), ([2, 7], 2)),
        (Keep(last=2, best="test/accuracy", best_mode="min"), ([5, 6, 7], 5)),
        (Keep(last=1, best="never/measured"), ([7], None)),
    ],
)
def test_the_ones_worth_keeping_outlive_restarts(tmp_path, keep, expected):
    assert steps_after(tmp_path, keep, [0.5, 0.9, None, 0.7, 0.2, float("nan"), None]) == expected
    assert names(tmp_path) == [str(step) for step in expected[0]]


def test_of_equally_good_ones_the_newest_is_best(tmp_path):
    assert steps_after(tmp_path, Keep(last=1, best="test/accuracy"), [0.9, 0.9, 0.1]) == ([2, 3], 2)


def test_a_damaged_metric_neither_stops_the_run_nor_wins(tmp_path):
    keep = Keep(last=3, best="test/accuracy")
    assert steps_after(tmp_path, keep, [0.9, 0.5]) == ([1, 2], 1)
    meta = tmp_path / "1" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("0.9", "9.9"))
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_text("{")
    with Checkpoints(tmp_path, keep) as checkpoints:
        assert checkpoints.best_step() == 2


def test_an_impossible_policy_is_refused():
    for fields in ({"last": 0}, {"every": -1}):
        with pytest.raises(UserError, match="must be at least 1"):
            Keep(**fields)


# Damage


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    folder = write(tmp_path, 1)
    count = 0
    for file, bit in random_flips(folder / "1", 100):
        flip(file, bit)
        (report,) = saved.verify(folder)
        assert not report.sound, (file, bit)
        assert list(report.files) == [str(file.relative_to(folder / "1"))]
        flip(file, bit)
        count += 1
    assert count > 110
    (report,) = saved.verify(folder)
    assert report.sound
    assert report.sealed
    assert set(report.leaves) == set(digest.named_leaves(ABSTRACT))


def test_restore_falls_back_from_a_flipped_bit_anywhere(tmp_path):
    original = write(tmp_path / "original", 1, 2)
    for number, (file, bit) in enumerate(random_flips(original / "2", 0)):
        folder = tmp_path / str(number)
        shutil.copytree(original, folder)
        flip(folder / file.relative_to(original), bit)
        assert restored_step(folder) == 1, file
        assert names(folder) == ["1", "2.corrupt"]


def test_without_a_manifest_leaves_come_back_right_or_not_at_all(tmp_path):
    original = write(tmp_path / "original", 1, 2)
    (original / "2" / digest.MANIFEST).unlink()
    found = []
    for number, (file, bit) in enumerate(random_flips(original / "2", 20, seed=5)):
        folder = tmp_path / str(number)
        shutil.copytree(original, folder)
        flip(folder / file.relative_to(original), bit)
        found.append(restored_step(folder))
    assert set(found) == {1, 2}, "some bits of the files mean nothing; the others are noticed"


@pytest.mark.parametrize("cause", [ValueError("ZSTD"), PermissionError("no")])
def test_only_damage_that_orbax_wraps_is_damage(tmp_path, monkeypatch, cause):
    folder = write(tmp_path, 1, 2)
    (folder / "2" / digest.MANIFEST).unlink()
    restore = ocp.PyTreeCheckpointHandler.restore

    def failing(handler, directory, *args, **kwargs):
        if directory.parent.name == "2":
            raise Exception("Encountered error while reading array index") from cause
        return restore(handler, directory, *args, **kwargs)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", failing)
    if isinstance(cause, ValueError):
        assert restored_step(folder) == 1
    else:
        with pytest.raises(Exception, match="Encountered error"):
            restored_step(folder)


def test_a_save_killed_before_its_manifest_gets_one_at_the_next_restore(tmp_path):
    folder = write(tmp_path, 1)
    (folder / "1" / digest.MANIFEST).unlink()
    (report,) = saved.verify(folder)
    assert report.sound
    assert not report.sealed
    assert restored_step(folder) == 1
    (report,) = saved.verify(folder)
    assert report.sealed
    assert report.sound


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("file", "sealed"),
    [
        ("state/manifest.ocdbt", True),
        ("state/manifest.ocdbt", False),
        ("state/_METADATA", True),
        ("meta/metadata", False),
        ("payload", True),
        ("payload", False),
    ],
)
def test_cut_and_deleted_files_put_a_checkpoint_aside(tmp_path, caplog, file, sealed):
    folder = write(tmp_path, 1, 2, 3)
    for step, change in ((2, pathlib.Path.unlink), (3, cut)):
        root = folder / str(step)
        for damaged in list((root / "state").rglob("d/*")) if file == "payload" else [root / file]:
            change(damaged)
        if not sealed:
            (root / digest.MANIFEST).unlink()
    assert restored_step(folder) == 1
    assert names(folder) == ["1", "2.corrupt", "3.corrupt"]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("offsites_jax")]
    assert [line.count("\n") for line in lines] == [0, 0]
    assert f"checkpoint {folder / '3'} is damaged: " in lines[0]
    assert "renamed to 3.corrupt" in lines[0]


def test_a_run_goes_on_after_damage_and_may_meet_it_again(tmp_path):
    folder = write(tmp_path, 1, 2)
    for _ in range(2):
        flip(folder / "2" / "meta" / "metadata", 9)
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.restore(ABSTRACT).step == 1
            assert checkpoints.all_steps() == [1]
            checkpoints.save(2, make_state(2), {"seed": 2})
    assert restored_step(folder) == 2
    assert names(folder) == ["1", "2", "2.corrupt", "2.corrupt-2"]


def test_when_all_are_damaged_no_run_starts_from_scratch(tmp_path):
    folder = write(tmp_path, 1, 2)
    for step in ("1", "2"):
        (folder / step / "state" / "manifest.ocdbt").unlink()
    for _ in range(2):
        with (
            Checkpoints(folder) as checkpoints,
            pytest.raises(DamagedDataError, match="every checkpoint is"),
        ):
            checkpoints.restore(ABSTRACT)
    assert names(folder) == ["1.corrupt", "2.corrupt"]


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: out of memory")

    folder = write(tmp_path, 1)
    monkeypatch.setattr(stored, "read_arrays", fail)
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match="out of memory"):
        checkpoints.restore(ABSTRACT)
    assert names(folder) == ["1"]


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "thesis.txt").write_text("precious")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="not a checkpoint"):
        checkpoints.restore(ABSTRACT)
    assert names(tmp_path) == ["12"]


# Disks that cannot take it


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 1 MiB where one may be mounted; elsewhere no file may grow beyond 256 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") and not subprocess.run(mount, capture_output=True, check=False).returncode:
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("notice", ["wait", "save", "close"])
def test_a_full_disk_is_one_clear_error_and_costs_no_checkpoint(tmp_path, capfd, notice):
    small = {"x": jnp.ones(100)}
    large = {"x": jnp.asarray(np.random.default_rng(0).normal(size=400_000))}
    full = r"step 2 \((No space left on device|File too large)\); the newest complete one is of step 1\."
    (tmp_path / "disk").mkdir()
    folder = tmp_path / "disk" / "checkpoints"
    with small_disk(tmp_path / "disk"):
        checkpoints = Checkpoints(folder, Keep(last=1))
        checkpoints.save(1, small, {})
        checkpoints.save(2, large, {})
        find_out = {"wait": checkpoints.wait, "close": checkpoints.close}
        with pytest.raises(UserError, match=full) as raised:
            find_out.get(notice, lambda: checkpoints.save(3, small, {}))()
        assert "\n" not in str(raised.value)
        with Checkpoints(folder, Keep(last=1)) as again:
            assert again.restore(abstract_of(small)).step == 1
            again.save(2, small, {})
        assert names(folder) == ["2"]
        if notice != "close":
            checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err


def test_saving_goes_on_once_there_is_space_again(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(digest, "write_manifest", fail)
            checkpoints.save(1, make_state(1), {"seed": 1})
            with pytest.raises(UserError, match="No space left"):
                checkpoints.wait()
        checkpoints.save(2, make_state(2), {"seed": 2})
        assert checkpoints.all_steps() == [1, 2]
    reports = saved.verify(tmp_path)
    assert all(report.sound for report in reports)
    assert [report.sealed for report in reports] == [False, True]
    assert restored_step(tmp_path) == 2


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Checkpoints(tmp_path / "file" / "checkpoints")


# Sudden death

SAVE_FOREVER = """
import itertools, sys
import jax, jax.numpy as jnp
from offsites_jax.train.checkpoint import Checkpoints, Keep
checkpoints = Checkpoints(sys.argv[1], Keep(last=3))
for step in itertools.count(1):
    checkpoints.save(step, {"x": jnp.full(1000, step), "y": jnp.full((300, 300), step / 3)}, {"seed": step})
    print(step, flush=True)
"""


def forever(step):
    return {"x": np.full(1000, step, np.int32), "y": np.full((300, 300), step / 3, np.float32)}


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, tmp_path], stdout=subprocess.PIPE)
    try:
        for line in child.stdout:
            if int(line) == 6:
                time.sleep(0.01)
                break
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in forever(0).items()}
    with Checkpoints(tmp_path) as checkpoints:
        step, state, meta = checkpoints.restore(abstract)
        assert step >= 5
        assert meta == {"seed": step}
        assert bits(state) == bits(forever(step))
        checkpoints.save(step + 1, state, {})
    assert all(name.isdecimal() for name in names(tmp_path))
