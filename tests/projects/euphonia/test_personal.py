"""From a corpus to one speaker's recogniser by the commands, and what refuses to go together."""

import json

import jax
import numpy as np
import pytest

from offsites_jax.cli.main import main, run
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.cohort import COHORT, PERSONAL, SHARED, join_layers
from offsites_jax.projects.euphonia.deltas import (
    FOLDER,
    About,
    add_delta,
    base_digest,
    delta_file,
    list_speakers,
    read_about,
    read_delta,
    write_delta,
)
from offsites_jax.projects.euphonia.loading import BASE, load
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train
from offsites_jax.train.saved import restore_variables


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("personal")


@pytest.fixture
def cohort(raw, corpus, runs):
    """Two speakers personalised by the command; once."""
    if not (runs / "cohort" / "outcomes.json").exists():
        train(resolve({**raw, "evaluators": {}}), runs / "base")
        options = ["--speakers", "ann", "ben", "--steps", "4", "--eval-every", "2", "--utterances", "3"]
        options += ["--learning-rate", "0.01", "--layers", "2"]
        job = ["euphonia", "personalize", str(corpus.folder), "--base", str(runs / "base")]
        assert run([*job, "--workdir", str(runs / "cohort"), *options]) == 0
    return runs / "cohort"


def test_each_speaker_gets_a_file_and_its_errors_are_told(cohort):
    assert list_speakers(cohort / FOLDER) == ["ann", "ben"]
    found = json.loads((cohort / "outcomes.json").read_text())
    assert set(found["speakers"]) == {"ann", "ben"}
    assert all(own["personal"] >= 0 and own["utterances"] == 2 for own in found["speakers"].values())


def test_a_speakers_recogniser_is_the_base_plus_its_best_layers(cohort):
    variables = restore_variables(cohort).variables
    params = variables["params"]
    for place, name in enumerate(("ann", "ben")):
        own = load(cohort, name).variables["params"]
        delta = jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), variables[COHORT][PERSONAL])
        layers = jax.tree.map(lambda a, b: a + np.asarray(b, np.float32), params[BASE], delta)
        expected = join_layers(params[SHARED], layers)
        jax.tree.map(np.testing.assert_array_equal, own, expected)
        assert read_about(cohort / FOLDER, name).scores["dev_nll"] == variables[COHORT]["best"][place]
    shared = join_layers(params[SHARED], params[BASE])
    jax.tree.map(np.testing.assert_array_equal, load(cohort).variables["params"], shared)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own, shared)
    assert max(jax.tree.leaves(moved)) > 0


def test_what_does_not_go_together_is_refused(cohort, runs):
    with pytest.raises(UserError, match="no speaker 'cat'; look there for the names of the 2"):
        load(cohort, "cat")
    with pytest.raises(UserError, match=r"--speaker: .* one model, not of a cohort"):
        load(runs / "base", "ann")
    delta, about = read_delta(cohort / FOLDER, "ann"), read_about(cohort / FOLDER, "ann")
    other = jax.tree.map(lambda leaf: leaf + 1, load(cohort).variables["params"]["encoder"])
    layers = {name: other[name] for name in delta}
    with pytest.raises(UserError, match="'ann' belong to another base"):
        add_delta(layers, delta, about, cohort)


@pytest.mark.parametrize("missing", ["corpus", "base", "speaker"])
def test_what_is_missing_is_one_line(cohort, corpus, runs, tmp_path, capsys, missing):
    places = {"corpus": str(corpus.folder), "base": str(runs / "base")} | {missing: str(tmp_path / "nowhere")}
    job = ["euphonia", "personalize", places["corpus"], "--base", places["base"]]
    job += ["--speakers", "zoe"] if missing == "speaker" else []
    with pytest.raises(SystemExit) as left:
        main([*job, "--workdir", str(tmp_path / "cohort")])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("offsites: ")
    assert told.count("\n") == 1
    assert ("--speakers: " if missing == "speaker" else "nowhere") in told
    assert not (tmp_path / "cohort").exists()


def test_delta_files_keep_names_and_notice_damage(tmp_path):
    layers = {"layers_0": {"kernel": np.ones((2, 3), np.float32)}}
    about = About("s-1", base_digest(layers), 7, {"dev_nll": 0.5})
    file = write_delta(tmp_path, about, {"layers_0": {"kernel": np.full((2, 3), 0.25, np.float32)}})
    found = add_delta(layers, read_delta(tmp_path, "s-1"), read_about(tmp_path, "s-1"), tmp_path)
    np.testing.assert_array_equal(found["layers_0"]["kernel"], np.full((2, 3), 1.25))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(DamagedDataError, match=r"s-1\.safetensors: cannot be read"):
        read_delta(tmp_path, "s-1")
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(DamagedDataError, match="does not describe a speaker"):
        read_about(tmp_path, "s-1")
    for name in ("../x", ".x", "a/b", ""):
        with pytest.raises(UserError, match="a name is of letters"):
            delta_file(tmp_path, name)
