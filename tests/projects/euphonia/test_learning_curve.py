"""Recognisers trained on more and more of each speaker: on nested parts, and at last as any other."""

import csv

import jax
import numpy as np
import pytest
import tyro

from offsites_jax.cli.main import run
from offsites_jax.errors import Preempted, UserError
from offsites_jax.projects.euphonia.analysis.data_size import read_sizes
from offsites_jax.projects.euphonia.commands.personalize import Training, data_size
from offsites_jax.projects.euphonia.deltas import FOLDER, list_speakers, read_delta
from offsites_jax.projects.euphonia.learning_curve import with_sizes
from offsites_jax.projects.euphonia.personal import cohort_experiment
from offsites_jax.train.config import resolve
from offsites_jax.train.loop import train

OPTIONS = ["--speakers", "ann", "ben", "--steps", "4", "--eval-every", "2", "--utterances", "3"]
OPTIONS += ["--learning-rate", "0.01", "--layers", "2"]
TRAINING = Training(steps=4, eval_every=2, utterances=3, learning_rate=0.01, layers=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("sizes")


@pytest.fixture
def base(raw, runs):
    """A base that has learnt a little; trained once."""
    if not (runs / "base").exists():
        train(resolve({**raw, "evaluators": {}}), runs / "base")
    return runs / "base"


@pytest.fixture
def study(corpus, base):
    """The experiment of two speakers who said seven training utterances each."""
    alone = cohort_experiment(str(corpus.folder), str(base), speakers=("ann", "ben"), **TRAINING.settings())
    return with_sizes(alone, (4, 2, 7, 100))


def heard(experiment, part, train_part):
    """Places of the utterances that each member is given."""
    source = experiment.found.create_pipeline(experiment, part, train_part).source
    members = experiment.task.members
    return [
        {one["index"] for index in range(place, len(source), members) for one in source[index]["utterances"]}
        for place in range(6)
    ]


def changes(workdir, name):
    """What somebody's layers learnt, in one row."""
    leaves = jax.tree.leaves(read_delta(workdir / FOLDER, name))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_parts_are_nested_and_what_stops_training_is_not_parted(study):
    assert study.data.speakers == ("ann", "ann", "ann", "ben", "ben", "ben")
    assert study.data.train_utterances == (2, 4, 0, 2, 4, 0)
    found = heard(study, "train", True)
    assert [len(own) for own in found] == [2, 4, 7, 2, 4, 7]
    assert found[0] < found[1] < found[2]
    assert found[3] < found[4] < found[5]
    dev = heard(study, "dev", False)
    assert dev[0] == dev[1] == dev[2]
    assert [len(dev[0]), len(dev[3]), len(dev[0] & dev[3])] == [3, 3, 0]


def test_all_utterances_make_the_recogniser_that_personalize_makes(study, corpus, base, runs):
    """Though the study was interrupted, and has other members."""
    start, workdir = [str(corpus.folder), "--base", str(base), *OPTIONS], runs / "study"
    assert run(["euphonia", "personalize", *start, "--workdir", str(runs / "plain")]) == 0
    with pytest.raises(Preempted):
        train(study, workdir, stop_at=2)
    sizes = ["--sizes", "4", "2", "7", "100"]
    tyro.cli(data_size, args=[*start, "--workdir", str(workdir), *sizes, "--per-speaker"])
    assert list_speakers(workdir / FOLDER) == ["ann", "ann-2", "ann-4", "ben", "ben-2", "ben-4"]
    for name in ("ann", "ben"):
        plain, length = changes(runs / "plain", name), np.linalg.norm(changes(runs / "plain", name))
        assert np.linalg.norm(changes(workdir, name) - plain) < 0.02 * length
        assert np.linalg.norm(changes(workdir, f"{name}-2") - plain) > 0.1 * length
    found = {(one.speaker, one.utterances): one.wer for one in read_sizes(workdir / "data_size_speakers.csv")}
    assert set(found) == {(name, size) for name in ("ann", "ben") for size in (2, 4, None)}
    with (workdir / "data_size.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["utterances"] for row in table] == ["2", "4", "all"]
    for row, size in zip(table, (2, 4, None), strict=True):
        assert float(row["median WER"]) == pytest.approx((found["ann", size] + found["ben", size]) / 2)
    assert (workdir / "data_size.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((2, 0, 8), r"train_utterances: is 8 for 'ben', who has 7"),
        ((2, 0), r"train_utterances: has 2 numbers for 3 speakers"),
        ((2, 2, 0), r"data.speakers: one comes twice"),
    ],
)
def test_mistakes_are_named(study, numbers, message):
    data = {**study.raw["data"], "speakers": ["ann", "ann", "ben"], "train_utterances": list(numbers)}
    experiment = resolve({**study.raw, "data": data})
    with pytest.raises(UserError, match=message):
        experiment.found.create_pipeline(experiment, "train", True)


def test_sizes_are_numbers_of_utterances(study):
    with pytest.raises(UserError, match=r"--sizes: \[0, 5\] are not numbers of utterances"):
        with_sizes(study, (0, 5))
