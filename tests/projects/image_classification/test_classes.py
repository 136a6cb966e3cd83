"""Names of classes: where they come from, and what a run keeps for machines without the data."""

import pathlib

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification import classes, evaluate
from offsites_jax.projects.image_classification.data_config import DataConfig, SplitConfig
from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.writers import MetricsWriter

DIGITS = "experiments/image_classification/digits.py"


def experiment(num_classes=3, **section):
    raw = load_experiment(DIGITS).raw
    raw["data"] = {"image_size": 16, **section}
    raw["model"]["num_classes"] = num_classes
    raw["stages"] = []
    return resolve(raw)


def write_folder(root):
    for name in ("ant", "bee", "cow"):
        (root / "train" / name).mkdir(parents=True)
    return DataConfig(source="folder", path=str(root))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("imagenet2012", True),
        ("imagenet2012:5.1.0", True),
        ("imagenet2012_real", True),
        ("imagenet_v2/matched-frequency", True),
        ("imagenet_a", False),
        ("cifar10", False),
    ],
)
def test_imagenet_has_its_synsets_where_it_is_not_prepared(name, known, tmp_path):
    config = DataConfig(name=name, path=str(tmp_path))
    names = classes.known_names(config, "train", 1000)
    assert (names is not None) == known
    if known:
        assert (names[0], names[207], names[999]) == ("n01440764", "n02099601", "n15075141")
        assert len(set(names)) == 1000
        assert list(names) == sorted(names)
    assert classes.known_names(config, "train", 10) is None


def test_names_are_those_of_the_data_set(tmp_path):
    config = write_folder(tmp_path)
    assert classes.known_names(config, "train", 3) == ("ant", "bee", "cow")
    assert classes.known_names(config, "train", 4) is None
    elsewhere = DataConfig(
        name="none",
        path=str(tmp_path / "x"),
        splits={"own": SplitConfig(source="folder", path=str(tmp_path))},
    )
    assert classes.known_names(elsewhere, "own", 3) == ("ant", "bee", "cow")
    assert classes.known_names(elsewhere, "train", 3) is None


def test_names_of_a_table_are_those_in_it(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"path": "a.png", "labels": ["dog", "ape"]}\n')
    assert classes.known_names(DataConfig(source="table", path=str(tmp_path)), "train", 2) == ("ape", "dog")


def test_a_job_with_the_data_keeps_the_names_for_one_without(tmp_path):
    write_folder(tmp_path / "data")
    found = experiment(source="folder", path=str(tmp_path / "data"))
    workdir = tmp_path / "run"
    assert classes.names_of_run(workdir, found) == ("ant", "bee", "cow")
    assert (workdir / "classes.txt").read_text() == "ant\nbee\ncow\n"
    gone = experiment(source="folder", path=str(tmp_path / "gone"))
    assert classes.names_of_run(workdir, gone) == ("ant", "bee", "cow")
    assert classes.names_of_run(tmp_path / "other", gone) is None
    assert not (tmp_path / "other").exists()


def test_an_evaluation_keeps_the_names_as_well(tmp_path):
    gone = experiment(source="folder", path=str(tmp_path / "gone"))
    batch = {"logits": np.eye(3, dtype=np.float32), "label": np.arange(3), "mask": np.ones(3)}
    for step, names in ((4, ("x", "y", "z")), (30, ("a, b", "c", "d"))):
        evaluator = evaluate.Classification(evaluate.EvaluatorConfig(pictures=False), 3, names)
        with MetricsWriter(tmp_path / "run", tensorboard=False) as writer:
            evaluator.run(lambda b: {"logits": b["logits"]}, iter([batch]), writer.artifacts("test", step))
    assert classes.names_of_run(tmp_path / "run", gone) == ("a, b", "c", "d")
    bare = evaluate.Classification(evaluate.EvaluatorConfig(pictures=False), 3)
    with MetricsWriter(tmp_path / "bare", tensorboard=False) as writer:
        bare.run(lambda b: {"logits": b["logits"]}, iter([batch]), writer.artifacts("test", 1))
    assert classes.names_of_run(tmp_path / "bare", gone) is None


def test_what_a_user_writes_goes_first_and_has_to_fit(tmp_path):
    write_folder(tmp_path / "data")
    found = experiment(source="folder", path=str(tmp_path / "data"))
    file = pathlib.Path(tmp_path / "classes.txt")
    file.write_text("crane\ncrane\nold cow\n")  # two kinds may have one name
    assert classes.names_of_run(tmp_path, found) == ("crane", "crane", "old cow")
    file.write_text("crane\n")
    with pytest.raises(UserError, match="has 1 names for 3 classes"):
        classes.names_of_run(tmp_path, found)


def test_a_workdir_that_cannot_be_written_gives_its_names_all_the_same(tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "file").write_text("")
    found = experiment(source="folder", path=str(tmp_path / "data"))
    assert classes.names_of_run(tmp_path / "file" / "run", found) == ("ant", "bee", "cow")
