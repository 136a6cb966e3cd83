"""Warm starts fill what they should, from where they should, and say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train.checkpoint import Checkpoints, Keep
from offsites_jax.train.digest import named_leaves
from offsites_jax.train.warm_start import InitFrom, Report, match, warm_start


def tree(*, head=10, backbone="backbone", fill=None, dtype=jnp.float32):
    """Variables of a small model: a backbone, a head, and running statistics."""
    random = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(random.normal(size=shape) if fill is None else np.full(shape, fill), dtype)

    return {
        "params": {
            backbone: {"layer_0": {"kernel": array(8, 16)}, "layer_1": {"kernel": array(16, 16)}},
            "head": {"kernel": array(16, head), "bias": array(head)},
        },
        "batch_stats": {backbone: {"mean": array(16)}},
    }


def save(workdir, variables, *, averaged=None, step=3, score=0.0):
    params, model_state = variables["params"], {"batch_stats": variables["batch_stats"]}
    ema = averaged and {"params": averaged["params"], "model_state": {"batch_stats": averaged["batch_stats"]}}
    state = {
        "step": jnp.int32(step),
        "params": params,
        "model_state": model_state,
        "opt_state": {},
        "ema": ema,
    }
    with Checkpoints(workdir / "checkpoints", Keep(best="score")) as checkpoints:
        checkpoints.save(step, state, {}, {"score": score})
    return str(workdir)


def placed(variables):
    """On a mesh: matrices split, vectors copied."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def place(leaf):
        spec = PartitionSpec("data", "fsdp") if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, variables)


def equal(a, b):
    """Names of the leaves that are equal in both trees."""
    a, b = named_leaves(a), named_leaves(b)
    return {name for name in a if name in b and np.array_equal(a[name], b[name])}


ALL = set(named_leaves(tree()))
HEAD = {"params/head/kernel", "params/head/bias"}


def test_everything_is_filled_and_stays_where_and_what_it_was(tmp_path):
    fresh = placed(tree(fill=7, dtype=jnp.bfloat16))
    path = save(tmp_path, tree())
    variables, report = warm_start(fresh, InitFrom(path))
    assert equal(variables, tree(dtype=jnp.bfloat16)) == ALL
    for name, leaf in named_leaves(variables).items():
        before = named_leaves(fresh)[name]
        assert (leaf.dtype, leaf.sharding) == (before.dtype, before.sharding)
    assert set(report.loaded) == ALL
    assert report.fresh == report.reshaped == report.unused == ()
    assert str(report) == "5 loaded; 0 fresh; 0 reshaped; 0 unused"


def test_averages_raw_values_and_steps_can_be_chosen(tmp_path):
    save(tmp_path, tree(fill=1), averaged=tree(fill=2), step=1, score=0.9)
    path = save(tmp_path, tree(fill=3), averaged=tree(fill=4), step=2, score=0.1)
    fresh = tree(fill=0)
    for init_from, value in [
        (InitFrom(path), 4),
        (InitFrom(path, params="raw"), 3),
        (InitFrom(path, step="best"), 2),
        (InitFrom(path, step=1, params="raw"), 1),
    ]:
        assert equal(warm_start(fresh, init_from)[0], tree(fill=value)) == ALL


def test_a_new_head_keeps_its_fresh_values(tmp_path):
    fresh = placed(tree(head=6, fill=7))
    variables, report = warm_start(fresh, InitFrom(save(tmp_path, tree()), skip=("^params/head/",)))
    assert equal(variables, fresh) == HEAD
    assert equal(variables, tree()) == ALL - HEAD
    assert set(report.fresh) == set(report.reshaped) == set(report.unused) == HEAD
    assert str(report).startswith("3 loaded; 2 fresh (params/head/bias, params/head/kernel); 2 reshaped (")


def test_names_are_mapped_from_here_to_there(tmp_path):
    path = save(tmp_path, tree(backbone="encoder"))
    rules = (
        ("/backbone/layer_(\\d)/", r"/encoder/layer_\1/"),
        ("/backbone/", "/encoder/"),
        ("/layer_0/", "/no/"),
    )
    variables, report = warm_start(tree(fill=7), InitFrom(path, map=rules))
    there = tree(backbone="encoder")
    for part in ("params", "batch_stats"):
        assert equal(variables[part]["backbone"], there[part]["encoder"]) == set(
            named_leaves(there[part]["encoder"])
        )
    assert len(report.loaded) == 5
    with pytest.raises(UserError, match=r"batch_stats/backbone/mean .* is not there"):
        warm_start(tree(), InitFrom(path, map=rules[:1]))


def test_leaves_filled_from_one_source_share_no_memory(tmp_path):
    path = save(tmp_path, tree())
    twins = placed({"params": {"a": {"kernel": jnp.zeros((16, 16))}, "b": {"kernel": jnp.zeros((16, 16))}}})
    init_from = InitFrom(path, map=(("params/[ab]/", "params/backbone/layer_1/"),))
    variables, _ = warm_start(twins, init_from)
    double = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2, state), donate_argnums=0)
    expected = np.asarray(tree()["params"]["backbone"]["layer_1"]["kernel"]) * 2
    for leaf in jax.tree.leaves(double(variables)):
        np.testing.assert_array_equal(leaf, expected)


def test_members_start_alike(tmp_path):
    path = save(tmp_path, tree())
    fresh = {"params": {"own": {"kernel": jnp.zeros((8, 16, 16))}, "head": {"bias": jnp.zeros(10)}}}
    fresh["params"]["whole"] = {"kernel": jnp.zeros((16, 16))}  # after "own", from the same leaf
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    fresh["params"]["own"]["kernel"] = jax.device_put(fresh["params"]["own"]["kernel"], split)
    rules = {"map": (("params/(own|whole)", "params/backbone/layer_1"),), "repeat": ("params/own/",)}
    variables, _ = warm_start(fresh, InitFrom(path, **rules))
    kernel = variables["params"]["own"]["kernel"]
    expected = np.asarray(tree()["params"]["backbone"]["layer_1"]["kernel"])
    np.testing.assert_array_equal(kernel, np.broadcast_to(expected, (8, 16, 16)))
    assert kernel.sharding == split
    np.testing.assert_array_equal(variables["params"]["whole"]["kernel"], expected)
    with pytest.raises(UserError, match=r"\[8, 16, 16\] here and \[8, 16\] there, not what one index"):
        warm_start(fresh, InitFrom(path, map=(("params/own", "params/backbone/layer_0"),), repeat=("own",)))


@pytest.mark.parametrize(
    ("ours", "rules", "message"),
    [
        (
            tree(head=6),
            {},
            r"params/head/bias is \[6\] here and \[10\] there; .* 'params/head/bias' .*\(and 1 more",
        ),
        (
            tree(backbone="stem"),
            {},
            r"batch_stats/stem/mean \[16\] is not there; to keep its fresh value add 'batch",
        ),
        (
            tree(),
            {"map": (("^params/head", "params/neck"),)},
            r"params/head/bias .* not there as params/neck/bias",
        ),
        (tree(dtype=jnp.int32), {}, r"batch_stats/backbone/mean is int32 here and float32 there"),
        (
            tree(),
            {"skip": ("haed",)},
            r"init_from.skip: 'haed' matches no leaf; there are batch_stats/backbone/mean",
        ),
        (tree(), {"map": (("haed", ""),)}, r"init_from.map: 'haed' matches no leaf"),
        (tree(), {"skip": ("head(",)}, r"init_from.skip: 'head\(' is no regular expression"),
        (tree(), {"map": (("head", r"\1"),)}, r"init_from.map: '.*1' cannot replace"),
    ],
)
def test_what_does_not_fit_is_one_line_with_its_remedy(ours, rules, message):
    with pytest.raises(UserError, match=message) as raised:
        match(named_leaves(ours), named_leaves(tree()), InitFrom("run", **rules))
    assert "\n" not in str(raised.value)


def test_the_pattern_an_error_proposes_accepts_the_leaf():
    ours, theirs = named_leaves(tree(head=6)), named_leaves(tree())
    skip = ()
    for _ in range(2):
        with pytest.raises(UserError) as raised:
            match(ours, theirs, InitFrom("run", skip=skip))
        skip += (str(raised.value).split("add '")[1].split("'")[0],)
    filled, report = match(ours, theirs, InitFrom("run", skip=skip))
    assert set(filled) == ALL - HEAD
    assert report == Report(tuple(filled), *[tuple(sorted(HEAD))] * 3)


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_weights_come_from_a_flat_file_too(tmp_path, prefix):
    file = tmp_path / "weights.safetensors"
    there = {name: np.asarray(leaf, jnp.bfloat16) for name, leaf in named_leaves(tree()["params"]).items()}
    safetensors.numpy.save_file({prefix + name: leaf for name, leaf in there.items()}, file)
    fresh = placed(tree(fill=7))
    variables, report = warm_start(fresh, InitFrom(str(file), skip=("batch_stats",)))
    assert len(report.loaded) == 4
    for name, leaf in named_leaves(variables["params"]).items():
        np.testing.assert_array_equal(leaf, there[name].astype(np.float32))
        assert leaf.sharding == named_leaves(fresh["params"])[name].sharding


def test_a_folder_of_weights_is_taken_for_its_file_unless_it_is_a_run(tmp_path):
    there = {name: np.asarray(leaf) for name, leaf in named_leaves(tree()).items()}
    safetensors.numpy.save_file(there, tmp_path / "params.safetensors")
    variables, report = warm_start(tree(fill=7), InitFrom(str(tmp_path)))
    assert (set(report.loaded), equal(variables, tree())) == (ALL, ALL)
    save(tmp_path, tree(fill=5))
    variables, _ = warm_start(tree(fill=7), InitFrom(str(tmp_path)))
    assert equal(variables, tree(fill=5)) == ALL


def test_trained_biases_for_maps_of_another_size_are_not_to_be_skipped():
    name = "params/stage_3/block_0/attn/relative_bias"
    small, large = ({name: jax.ShapeDtypeStruct((12, n, n), jnp.float32)} for n in (13, 27))
    with pytest.raises(UserError) as raised:
        match(large, small, InitFrom("run"))
    message = str(raised.value)
    assert f"{name} is [12, 27, 27] here and [12, 13, 13] there" in message
    assert "model.overrides.table_image_size" in message
    assert "`offsites import --image-size`" in message
    assert "init_from.skip" not in message


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        warm_start(tree(), InitFrom(str(tmp_path / "no.safetensors")))
    with pytest.raises(UserError, match="no checkpoint in"):
        warm_start(tree(), InitFrom(str(tmp_path / "no_run")))
    (tmp_path / "cut.safetensors").write_bytes(safetensors.numpy.save({"a": np.ones(9)})[:-4])
    with pytest.raises(DamagedDataError, match="is damaged"):
        warm_start(tree(), InitFrom(str(tmp_path / "cut.safetensors")))
