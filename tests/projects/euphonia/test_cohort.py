"""Speakers trained side by side are what each would be alone, whoever else is there, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.pipeline import global_batch
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.cohort import COHORT, PERSONAL
from offsites_jax.projects.euphonia.cohort_data import speaker_key, train_rows
from offsites_jax.projects.euphonia.transcription import Transcribe
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train
from offsites_jax.train.writers import read_metrics


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def base(raw, runs):
    """A base that has learnt a little; trained once."""
    if not (runs / "base").exists():
        train(resolve({**raw, "evaluators": {}}), runs / "base")
    return runs / "base"


def cohort(raw, base, speakers, *, members=0, mesh=None, utterances=3, rate=1e-2, patience=2, **changes):
    """A run of some speakers, a few steps from the base."""
    members = members or len(speakers)
    config = {
        **raw,
        "task": {**raw["task"], "members": members, "utterances": utterances, "patience": patience},
        "data": {**raw["data"], "speakers": list(speakers)},
        "optimizer": {**raw["optimizer"], "learning_rate": rate, "members": True},
        "train": {**raw["train"], "batch_size": members, **changes},
        "sharding": {"rules": [["^personal/", "members"], [".*", "replicated"]]},
        "mesh": mesh or {"data": 1},
        "init_from": {
            "path": str(base),
            "map": [["^params/(personal|base)/", "params/encoder/"], ["^params/shared/", "params/"]],
            "repeat": ["^params/personal/"],
            "skip": ["^cohort/"],
        },
    }
    return resolve(config)


@pytest.fixture
def three(raw, base, runs):
    """Three speakers in one job; trained once."""
    return train(cohort(raw, base, ("ann", "ben", "cat")), runs / "three").state


def own_layers(state, place):
    return jax.tree.map(lambda leaf: np.asarray(leaf[place]), state.params[PERSONAL])


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def dev_scores(workdir):
    return [line for line in read_metrics(workdir) if line["split"] == "dev"]


def test_who_else_is_there_in_which_order_and_on_which_mesh_changes_nothing(raw, base, three, runs):
    mesh = {"data": 4, "fsdp": 2, "cpu_devices": 8}
    found = train(cohort(raw, base, ("cat", "ann"), members=8, mesh=mesh), runs / "mesh").state
    assert_close(own_layers(found, 0), own_layers(three, 2))
    assert_close(own_layers(found, 1), own_layers(three, 0))
    learnt = jax.tree.map(lambda a, b: np.abs(a - b).max(), own_layers(three, 0), three.params["base"])
    assert max(jax.tree.leaves(learnt)) > 1e-3
    for padding in range(2, 8):
        assert_same(own_layers(found, padding), found.params["base"])
    for ours, theirs in zip(dev_scores(runs / "three"), dev_scores(runs / "mesh"), strict=True):
        assert ours["nll/ann"] == pytest.approx(theirs["nll/ann"], rel=1e-4)
        assert "nll/ben" not in theirs


def test_a_member_trains_as_a_model_with_frozen_layers(raw, base, runs):
    """With all seven utterances of a speaker in the batch, order and shuffling do not matter."""
    raw = {**raw, "task": {**raw["task"], "spec_augment": "none", "dither": False}, "evaluators": {}}
    member = train(cohort(raw, base, ("ben",), utterances=7, steps=1), runs / "member").state
    frozen = ("^encoder/layers_2", "^predictor/", "^joint/")
    config = {
        **raw,
        "data": {**raw["data"], "speaker": "ben"},
        "optimizer": {**raw["optimizer"], "learning_rate": 1e-2, "frozen": frozen},
        "train": {**raw["train"], "batch_size": 7, "steps": 1},
        "init_from": {"path": str(base)},
    }
    single = train(resolve(config), runs / "single").state
    lower = {name: single.params["encoder"][name] for name in member.params[PERSONAL]}
    assert_close(own_layers(member, 0), lower)
    before = member.params["shared"]
    assert_same(
        {p: before[p] for p in ("joint", "predictor")}, {p: single.params[p] for p in ("joint", "predictor")}
    )
    assert_same(before["encoder"]["layers_2"], single.params["encoder"]["layers_2"])
    values = sum(leaf.size for leaf in jax.tree.leaves(lower))
    for state in (single, member):
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size > 1]
        assert sum(leaf.size for leaf in moments) == 2 * values


def test_a_member_stops_and_keeps_its_best(raw, base, runs):
    # At so high a rate the dev loss soon stops falling.
    state = train(cohort(raw, base, ("ann", "ben"), rate=0.5, patience=1, steps=24), runs / "stopping").state
    members = jax.device_get(state.model_state[COHORT])
    for place, name in enumerate(("ann", "ben")):
        own = [line[f"nll/{name}"] for line in dev_scores(runs / "stopping")]
        waited = [index - int(np.argmin(own[: index + 1])) for index in range(len(own))]
        stop = next((index for index, waits in enumerate(waited) if waits == 1), None)
        assert members["active"][place] == (stop is None)
        until = own if stop is None else own[: stop + 1]
        assert members["best"][place] == pytest.approx(min(until), rel=1e-6)
        if stop is not None:
            assert own[stop:] == pytest.approx([own[stop]] * len(own[stop:]), rel=1e-6), (
                "nothing moves any more"
            )
    assert not members["active"].all()
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(members[PERSONAL]))


def with_nan(loss, mine):
    """Without a loss where it is mine."""
    return loss * jnp.where(mine, jnp.nan, 1.0)


def with_nan_gradient(loss, mine):
    """A loss there is, but where it is mine its derivative is 0 times that of the root at 0."""
    return loss + jnp.sqrt(0.0 * loss + jnp.where(mine, 0.0, 1.0))


@pytest.mark.parametrize("damage", [with_nan, with_nan_gradient])
def test_one_speakers_nan_stays_its_own(raw, base, three, runs, monkeypatch, damage):
    losses = Transcribe.losses
    experiment = cohort(raw, base, ("ann", "ben", "cat"))

    def broken(task, params, model_state, batch, keys):
        """As if ben's recordings were damaged."""
        found = losses(task, params, model_state, batch, keys)
        mine = batch["speaker_key"] == speaker_key("ben")
        return {name: (damage(loss, mine), weight) for name, (loss, weight) in found.items()}

    monkeypatch.setattr(Transcribe, "losses", broken)
    monkeypatch.setattr(Transcribe, "scored", (*Transcribe.scored, "speaker_key"))
    state = train(experiment, runs / damage.__name__).state
    assert np.asarray(state.model_state[COHORT]["skipped"]).tolist() == [0, 6, 0]
    assert_same(own_layers(state, 1), state.params["base"])
    for place in (0, 2):
        assert_close(own_layers(state, place), own_layers(three, place))


def test_a_speakers_utterances_follow_from_its_name_and_the_step():
    rows = list(range(10, 17))
    seen = [row for step in range(7) for row in train_rows(rows, step, 77, number=3, seed=1)]
    assert sorted(seen[:7]) == rows
    assert sorted(seen[7:14]) == rows
    assert seen[:7] != seen[7:14]
    assert train_rows(rows, 4, 77, number=3, seed=1) == seen[12:15]
    assert train_rows(rows, 0, 78, number=3, seed=1) != seen[:3]


def test_rows_of_a_batch_are_speakers(raw, base):
    experiment = cohort(raw, base, ("cat", "ann"), members=4)
    for split, train_part in (("train", True), ("dev", False)):
        pipeline = experiment.found.create_pipeline(experiment, split, train_part)
        batch = global_batch(pipeline, batch_size=4, seed=0, step=0)
        assert batch["waveform"].shape == (4, 3, 4800)
        assert batch["real"].sum(1).tolist() == [3, 3, 0, 0]
        assert batch["speaker_key"].tolist() == [speaker_key("cat"), speaker_key("ann"), 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"speakers": ("ann", "dan")}}, r"data.speakers: 'dan' has no utterances"),
        ({"data": {"speakers": ("ann", "ann")}}, r"data.speakers: one comes twice"),
        ({"task": {"members": 1}, "train": {"batch_size": 1}}, r"members: is 1, but there are 2 speakers"),
        ({"train": {"batch_size": 3}}, r"train.batch_size: is 3, must be task.members = 2"),
    ],
)
def test_mistakes_are_named(raw, base, changes, message):
    config = cohort(raw, base, ("ann", "ben")).raw
    for section, values in changes.items():
        config[section] = {**config[section], **values}
    experiment = resolve(config)
    with pytest.raises(UserError, match=message):
        experiment.found.create_pipeline(experiment, "train", True)
