"""Experiment files: overrides, checks, stages, and what a resumed run may change."""

import copy
import pathlib

import pytest

from offsites_jax.errors import UserError
from offsites_jax.train.config import (
    differences,
    load_experiment,
    override,
    parse_value,
    resolve,
    stage_ends,
)
from offsites_jax.train.warm_start import InitFrom

DIGITS = pathlib.Path(__file__).parents[2] / "experiments" / "image_classification" / "digits.py"


@pytest.fixture(scope="module")
def raw():
    return load_experiment(DIGITS).raw


def changed(raw, key, text):
    raw = copy.deepcopy(raw)
    override(raw, key, text)
    return raw


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("train.stepz", "5", "config.train.stepz: unknown key; did you mean steps?"),
        ("trian.steps", "5", "config.trian: unknown section; did you mean train?"),
        ("train.steps", "many", "config.train.steps: expected int, got str"),
        ("train.steps", "1.5", "config.train.steps: expected int, got float"),
        ("train.ema.decy", "0.9", "config.train.ema.decy: unknown key; did you mean decay?"),
        ("train.precision", "float8", "config.train.precision: invalid enum value 'float8'"),
        (
            "optimizer.learning_rate.peek",
            "1",
            "config.optimizer.learning_rate.peek: unknown key; did you mean peak?",
        ),
        (
            "data.loading.num_wrokers",
            "1",
            "config.data.loading.num_wrokers: unknown key; did you mean num_workers",
        ),
        ("project", "image_clasification", "config.project: no project 'image_clasification'; did you mean"),
        ("train.steps", "0", "config.train.steps: is 0, must be at least 1"),
        ("train.accumulate", "3", "config.train.accumulate: 3 does not divide batch_size=128"),
        ("evaluators.test.splt", "x", "config.evaluators.test.splt: unknown key; did you mean split?"),
        ("stages.0.until", "9999", "config.stages[0].until: step 9999 is beyond train.steps=600"),
        ("stages.7.until", "5", "config.stages.7: '7' is no index of a list of 2"),
        ("train.steps.more", "5", "config.train.steps: is a value, not a section"),
        ("init_from", "5", "config.init_from: is 5; give a path, or a section with a path"),
        ("init_from", "['a', 'b']", "config.init_from: is ['a', 'b']; give a path"),
        ("init_from", "{'paht': 'a'}", "config.init_from.paht: unknown key; did you mean path"),
        ("init_from.step", "last", "config.init_from"),
        ("data.augment", "none", "config.data.augment: expected str, got null; the word none needs quotes"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_the_remedy(raw, key, text, message):
    with pytest.raises(UserError) as error:
        resolve(changed(raw, key, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_set_typed_values_anywhere():
    overrides = {
        "train.batch_size": "64",
        "optimizer.learning_rate.peak": "1e-2",
        "data.crop_area": "(0.5, 1)",
        "model.overrides.head_width": "32",
        "stages.1.name": "big",
        "data.flip": "true",
    }
    experiment = load_experiment(DIGITS, overrides).at_stage(1)
    assert experiment.train.batch_size == 64
    assert experiment.optimizer["main"].learning_rate.peak == 1e-2
    assert experiment.data.crop_area == (0.5, 1.0)
    assert experiment.model.overrides["head_width"] == 32
    assert experiment.stage_name == "big"
    assert experiment.data.flip is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("(1, 2)", [1, 2]),
        ("adamw", "adamw"),
        ("'5'", "5"),
    ],
)
def test_values_are_read_as_python_writes_them(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_a_plain_string_to_start_from_is_its_path(raw, tmp_path):
    spelled = resolve(changed(raw, "init_from.path", "weights/b0.safetensors"))
    for plain in ("weights/b0.safetensors", "'weights/b0.safetensors'"):
        short = resolve(changed(raw, "init_from", plain))
        assert short.raw == spelled.raw
        assert short.at_stage(1).init_from == spelled.init_from == InitFrom("weights/b0.safetensors")
    more = changed(changed(raw, "init_from", "a/run"), "init_from.step", "best")
    assert resolve(more).init_from == InitFrom("a/run", "best")
    file = tmp_path / "short.py"
    file.write_text(
        "import ml_collections\n\n\ndef get_config():\n    config = ml_collections.ConfigDict()\n"
        "    config.update({'project': 'image_classification', 'train': {'steps': 1, 'batch_size': 1}})\n"
        "    config.init_from = 'a/run'\n    return config\n"
    )
    assert load_experiment(file).raw["init_from"] == {"path": "a/run"}
    assert load_experiment(file, {"init_from.step": "3"}).init_from == InitFrom("a/run", 3)
    for nothing in ("None", "''"):
        assert load_experiment(file, {"init_from": nothing}).init_from is None


def test_stages_lay_their_overrides_over_the_sections(raw):
    experiment = resolve(raw)
    assert experiment.ends == (300, 600)
    assert [experiment.stage_at(step) for step in (0, 299, 300, 599, 600)] == [0, 0, 1, 1, 1]
    small, large = experiment.at_stage(0), experiment.at_stage(1)
    assert (small.data.image_size, large.data.image_size) == (16, 32)
    assert small.model.overrides["dropout_rate"] == 0.0
    assert large.model.overrides["dropout_rate"] == 0.1
    assert small.model.overrides["head_width"] == large.model.overrides["head_width"]


def test_stages_out_of_order_are_refused():
    class Ends:
        def __init__(self, until):
            self.name, self.until = str(until), until

    assert stage_ends([Ends(0.25), Ends(30), Ends(0)], 100) == (25, 30, 100)
    with pytest.raises(UserError, match=r"stages\[1\].until: stage '10' ends at step 10, not after"):
        stage_ends([Ends(20), Ends(10), Ends(0)], 100)
    with pytest.raises(UserError, match=r"stages\[1\].until: the last stage ends at 50, the run at 100"):
        stage_ends([Ends(20), Ends(50)], 100)


def test_a_resumed_run_may_change_how_it_runs_but_not_what(raw):
    same = changed(changed(raw, "train.log_every", "1"), "mesh.data", "2")
    assert differences(raw, changed(same, "data.loading.num_workers", "2")) == []
    assert differences(raw, changed(raw, "optimizer.weight_decay", "0.5")) == [
        "optimizer.weight_decay: 0.02 -> 0.5"
    ]
    assert differences(raw, changed(raw, "train.seed", "1")) == ["train.seed: 0 -> 1"]


def test_a_missing_file_or_function_is_named(tmp_path):
    with pytest.raises(UserError, match="no such experiment file"):
        load_experiment(tmp_path / "nothing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"defines no get_config\(\)"):
        load_experiment(tmp_path / "empty.py")


def test_an_experiment_may_take_an_argument(tmp_path):
    text = DIGITS.read_text().replace("def get_config()", "def get_config(arg='3')")
    file = tmp_path / "with_argument.py"
    file.write_text(text.replace('"seed": 0', '"seed": int(arg)'))
    assert load_experiment(f"{file}:7").train.seed == 7
    assert load_experiment(file).train.seed == 3


def test_the_final_view_is_the_last_stage_whatever_it_is_taken_from(raw):
    last = resolve(raw).final
    assert (last.stage_name, last.data.image_size) == ("large", 32)
    assert last.final is last


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config():\n    return (\n", r"broken\.py, line 2: '\(' was never closed"),
        ("import no_such_package\n", "No module named 'no_such_package'; install it, or mend the import"),
    ],
)
def test_a_file_that_python_cannot_read_is_one_line(tmp_path, text, said):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserError, match=said):
        load_experiment(tmp_path / "broken.py")
