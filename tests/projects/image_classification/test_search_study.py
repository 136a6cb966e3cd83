"""Searches that are real but tiny, in processes that are killed; and searches whose trials are made up."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import msgspec
import numpy as np
import portpicker
import pytest
from etils import epath
from PIL import Image

from offsites_jax.errors import DamagedDataError, NonFiniteLossError, UserError
from offsites_jax.projects.image_classification.search import jobs, measure, report, study
from offsites_jax.projects.image_classification.search.sampler import Evolution
from offsites_jax.projects.image_classification.search.trials import (
    Trial,
    describe,
    read_trials,
    write_trials,
)
from offsites_jax.train.config import load_experiment

ROOT = pathlib.Path(__file__).parents[3]
EXPERIMENT = ROOT / "experiments" / "image_classification" / "search_digits.py"
TINY = {
    "model.overrides.blocks": "['r1_k3_s2_e1_i8_o8_c1', 'r1_k3_s2_e1_i8_o8_se0.25']",
    "model.overrides.head_width": "8",
    "train.steps": "2",
    "train.batch_size": "16",
    "train.checkpoint_every": "1",
    "optimizer.learning_rate.warmup_steps": "0",
    "evaluators.test.batch_size": "120",
    "mesh": "{'cpu_devices': 1}",
}
SEARCH = {"kernel_sizes": (1, 3), "expand_ratios": (1,), "layers": 1, "timed_steps": 3}


# Searches in processes of their own


def search_in_process(workdir, changes=(), **settings):
    overrides = tuple(f"{key}={value}" for key, value in {**TINY, **dict(changes)}.items())
    arguments = {**SEARCH, "experiment": str(EXPERIMENT), "workdir": str(workdir), "trials": 1, **settings}
    code = f"from {jobs.__name__} import search\nsearch(**{arguments!r}, overrides={overrides!r})"
    cache = {"OFFSITES_CACHE": str(ROOT / ".cache" / "jax"), "JAX_PLATFORMS": "cpu"}
    # A group of its own: the trainer's data workers must go with it.
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(process, happened, seconds=600):
    begin = time.monotonic()
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < begin + seconds
        time.sleep(0.01)


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Folders of a search that ran through, and of one that was killed in its second training; the latter's
    lines when it was killed."""
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    process = search_in_process(whole)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output

    process = search_in_process(killed)
    until(process, (killed / "trials" / "0001" / "config.json").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = (killed / "trials.jsonl").read_text()
    # The end of a line that another machine did not get to write.
    (killed / "trials.jsonl").write_text(before + '{"index": 1, "blocks": ["r1_k')
    process = search_in_process(killed)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert "trial 0:" not in output
    assert "trial 1:" in output
    return whole, killed, before


def decided(row):
    """What must not depend on when and how often a search was started; times may."""
    return row.index, row.blocks, row.seed, row.status, row.accuracy, row.params, row.macs, row.step_flops


def test_a_killed_search_goes_on_as_if_it_had_not_been(searches):
    whole, killed, before = searches
    first, second = (read_trials(epath.Path(folder) / "trials.jsonl") for folder in (whole, killed))
    assert list(map(decided, first)) == list(map(decided, second))
    assert len(first) == 2
    assert len(before.splitlines()) == 1
    assert (killed / "trials.jsonl").read_text().startswith(before), "finished trials stay as they were"
    assert all(row.status == "ok" and row.step_seconds > 0 and 0 < row.accuracy < 1 for row in second)
    assert len({row.blocks for row in second}) == 2


def test_a_search_leaves_metrics_report_and_picture_but_no_checkpoints(searches):
    _, folder, _ = searches
    found = json.loads((folder / "report.json").read_text())
    rows = read_trials(epath.Path(folder) / "trials.jsonl")
    assert sorted(found["by_reward"]) == [0, 1]
    best = rows[found["by_reward"][0]]
    assert best.reward == max(row.reward for row in rows)
    assert tuple(found["best"]["overrides"]["blocks"]) == best.blocks
    assert best.index in found["pareto"], "a weighted product of all three is largest where nothing beats it"
    assert np.asarray(Image.open(folder / "pareto.png")).std() > 10
    for index in range(2):
        assert (folder / "trials" / f"{index:04d}" / "metrics.jsonl").exists()
        assert not (folder / "trials" / f"{index:04d}" / "checkpoints").exists()


def test_the_page_names_the_flags_that_train_the_best(searches):
    page = (searches[1] / "report.md").read_text()
    flags = dict(re.findall(r"--config\.(\S+?)='?([^'\\\n]+?)'?(?: \\)?$", page, re.MULTILINE))
    rows = read_trials(epath.Path(searches[1]) / "trials.jsonl")
    best = max(rows, key=lambda row: row.reward)
    assert tuple(load_experiment(EXPERIMENT, flags).model.overrides["blocks"]) == best.blocks
    assert page.count("\n| ") >= 2


def test_two_processes_search_together(searches, tmp_path):
    coordinator = f"localhost:{portpicker.pick_unused_port()}"
    pair = [
        search_in_process(
            tmp_path,
            {"mesh": "{'data': 2, 'cpu_devices': 1}"},
            coordinator=coordinator,
            process_count=2,
            process_index=index,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=900)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n----\n".join(said)
    together, alone = (read_trials(epath.Path(at) / "trials.jsonl") for at in (tmp_path, searches[0]))
    assert [(row.index, row.blocks, row.status, row.params) for row in together] == [
        (row.index, row.blocks, row.status, row.params) for row in alone
    ]
    for here, there in zip(together, alone, strict=True):
        assert here.accuracy == pytest.approx(there.accuracy, abs=0.05), (
            "the same batches, added up otherwise"
        )
    assert "trial 1:" in said[0]
    assert "trial 1:" not in said[1], "one of them speaks for both"
    assert (tmp_path / "pareto.png").exists()
    assert not list(tmp_path.glob("trials/*/checkpoints"))


# Searches in this process, whose trials are made up


class Stop(BaseException):
    """Ends a search as a kill would, in the middle of a trial."""


def made_up(index, blocks):
    """A trial whose figures follow from its blocks."""
    rng = np.random.default_rng(sum(map(ord, "".join(blocks))))
    accuracy, seconds, params = 0.5 + rng.random() / 2, rng.random(), int(rng.integers(100, 900))
    return Trial(index, blocks, 0, "ok", accuracy=accuracy, step_seconds=seconds, params=params)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens a study in a folder; trials are made up, and stop where told."""

    def create(name="a", *, stop_at=(), refuse=lambda blocks: None, **settings):
        def run_trial(_, index, blocks):
            if index in stop_at:
                raise Stop
            error = refuse(blocks)
            if error:
                raise error
            return made_up(index, blocks)

        monkeypatch.setattr(study, "run_trial", run_trial)
        monkeypatch.setattr(study.jax, "clear_caches", lambda: None)
        experiment = load_experiment(EXPERIMENT)
        chosen = study.Settings(**{"metric": "test/accuracy", "expand_ratios": (1, 4), **settings})
        return study.open_study(experiment, tmp_path / name, chosen)

    return create


@pytest.mark.parametrize("sampler", ["random", "evolution", "reinforce"])
def test_a_search_stopped_before_any_trial_tries_the_same_candidates(opened, sampler):
    settings = {"sampler": sampler, "evolution": Evolution(population=3, tournament=2)}
    whole = study.run_study(opened("whole", **settings), 8)
    for stop in range(9):
        with pytest.raises(Stop):
            study.run_study(opened("parts", stop_at=(stop,), **settings), 8)
    assert study.run_study(opened("parts", **settings), 8) == whole
    assert [row.index for row in whole] == list(range(9))


def test_more_trials_may_be_asked_for_but_not_another_search(opened, monkeypatch):
    few = study.run_study(opened(), 2)
    more = study.run_study(opened(), 4)
    assert more[:3] == few
    with pytest.raises(UserError, match="ask for fewer"):
        study.run_study(opened(), 10**9)
    with pytest.raises(UserError, match=r"settings.seed: 0 -> 1"):
        opened(seed=1)
    monkeypatch.setattr(study.jax, "device_count", lambda: 4096)
    with pytest.raises(UserError, match=r"devices: .* -> \"4096 x "):
        opened()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NonFiniteLossError("step 3: loss is nan"), "step 3: loss is nan"),
        (UserError("does not fit"), "does not fit"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 90 GB\nmore"),
            "out of memory: RESOURCE_EXHAUSTED: 90 GB",
        ),
    ],
)
def test_a_failed_trial_is_recorded_and_the_search_goes_on(opened, error, reason):
    backbone = opened().backbone.blocks
    rows = study.run_study(
        opened(refuse=lambda blocks: error if blocks != backbone and "_e4_" not in blocks[0] else None), 8
    )
    wrong = [row for row in rows if row.status == "failed"]
    assert 1 < len(wrong) < 8
    assert all((row.reward, row.reason) == (0.0, reason) for row in wrong)
    assert reason in describe(wrong[0])
    found = opened()
    report.write_report(found, rows)
    page = (found.folder / "report.md").read_text()
    assert page.count(f": {reason}") == len(wrong)
    assert f"{8 - len(wrong)} trained, {len(wrong)} failed" in page


def test_what_is_no_candidates_fault_ends_the_search(opened):
    with pytest.raises(UserError, match="no data"):
        study.run_study(opened(refuse=lambda blocks: UserError("no data")), 3)
    assert not read_trials(opened().folder / "trials.jsonl"), "the backbone failed: nothing to compare with"
    with pytest.raises(jax.errors.JaxRuntimeError):
        study.run_study(opened(refuse=lambda blocks: jax.errors.JaxRuntimeError("INTERNAL: broken")), 3)


def test_a_network_drawn_again_is_not_trained_again(opened):
    tiny = {"sampler": "reinforce", "kernel_sizes": (3,), "expand_ratios": (4,), "layers": 0}
    rows = study.run_study(opened(**tiny), 7)
    again = [row for row in rows if row.status == "repeat"]
    assert again, "7 draws of 8 networks"
    for row in again:
        original = rows[int(row.reason.split()[-1])]
        assert original.status == "ok"
        assert (row.blocks, row.reward, row.accuracy) == (original.blocks, original.reward, original.accuracy)


def test_a_finished_trial_gives_its_disk_back(opened):
    found = opened()
    for name in ("compile_cache/program", "compile_cache/tuning/kernel", "trials/0001/checkpoints/2/leaf"):
        (found.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (found.folder / name).write_text("large")
    (found.folder / "trials" / "0001" / "metrics.jsonl").write_text("small")
    study.run_study(found, 1)
    folder = pathlib.Path(found.folder)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert left == {"search.json", "trials.jsonl", "compile_cache/tuning/kernel", "trials/0001/metrics.jsonl"}


def test_lines_that_are_damaged_or_missing_are_named(tmp_path):
    file = epath.Path(tmp_path) / "trials.jsonl"
    rows = [made_up(index, (f"b{index}",)) for index in range(3)]
    write_trials(file, rows)
    assert read_trials(file) == rows
    lines = file.read_text().splitlines(keepends=True)
    for cut in range(len(lines[2])):
        file.write_text("".join(lines[:2]) + lines[2][:cut])
        assert read_trials(file) == rows[:2], "half a line is no line"
    file.write_text(lines[0] + lines[1][:9] + "\n" + lines[2])
    with pytest.raises(DamagedDataError, match="line 2 is damaged"):
        read_trials(file)
    file.write_text(lines[0] + lines[2])
    with pytest.raises(DamagedDataError, match="line 2 is trial 2"):
        read_trials(file)


# What a trial costs, and the job


def test_the_step_time_weighs_stages_by_their_steps(monkeypatch):
    medians = {16: [5.0, 1.0, 2.0], 32: [9.0, 8.0, 8.0]}
    monkeypatch.setattr(measure, "step_times", lambda program, _: medians[program.batch["image"].shape[1]])
    experiment = load_experiment(
        ROOT / "experiments" / "image_classification" / "digits.py", {"stages.0.until": "0.25"}
    )
    assert measure.step_seconds(experiment, 3) == 0.25 * 2 + 0.75 * 8


def test_a_plan_weighs_stages_by_their_steps_and_says_what_does_not_fit():
    stages = [
        {"name": "small", "steps": 30, "fits": True, "step_estimate_seconds": 0.1, "exceeds_by_bytes": 0},
        {"name": "large", "steps": 10, "fits": True, "step_estimate_seconds": 0.5, "exceeds_by_bytes": 0},
    ]
    assert measure.planned_average({"topology": "v5e:4x4", "stages": stages}) == pytest.approx(8 / 40)
    stages[1] |= {"fits": False, "step_estimate_seconds": None, "exceeds_by_bytes": 7}
    with pytest.raises(UserError, match="stage large exceeds the memory of v5e:4x4 by 7 bytes"):
        measure.planned_average({"topology": "v5e:4x4", "stages": stages})


def test_what_the_planner_refuses_is_told():
    with pytest.raises(UserError, match=r"^--topology: 'v5e:nine' is no topology"):
        measure.planned_seconds(load_experiment(EXPERIMENT), "v5e:nine")


def test_parameters_and_operations_are_the_published_ones():
    changes = {"model": "{'name': 'efficientnet_v2_b0', 'num_classes': 1000}", "data.image_size": "32"}
    changes |= {"data.eval_size": "224", "data.channels": "3", "mesh": "{}"}
    experiment = load_experiment(EXPERIMENT, changes)
    mesh = study.create_mesh(experiment.mesh)
    size = measure.count(experiment, mesh)
    assert size.params == 7_139_704
    assert size.macs == pytest.approx(0.718e9, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metric": "tset/accuracy"}, "no evaluator"),
        ({"overrides": ("train.steps",)}, "KEY=VALUE"),
        ({"timed_steps": 0}, "timed-steps: 0"),
        ({"tournament": 0}, "100, 0; give 1 or more"),
    ],
)
def test_mistakes_on_the_command_line_are_told_before_anything_runs(tmp_path, arguments, said):
    with pytest.raises(UserError, match=said):
        jobs.search(str(EXPERIMENT), str(tmp_path / "s"), **arguments)
    assert not (tmp_path / "s").exists()


def test_a_backbone_without_stages_of_mbconv_is_refused():
    with pytest.raises(UserError, match="name an efficientnet"):
        study.Backbone.of(object())


def test_settings_are_json():
    settings = study.Settings(metric="test/accuracy")
    assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(settings))), study.Settings) == settings
