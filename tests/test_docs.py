"""The documentation says what the code does: commands parse, links resolve, the sample system runs."""

import argparse
import ast
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import ml_collections
import pytest
import tyro

from offsites_jax import errors
from offsites_jax.cli.main import VERBS, parse_overrides
from offsites_jax.train.config import load_experiment, plain, resolve
from offsites_jax.train.project import BUILT_IN, PARTS, find_project, list_projects
from offsites_jax.train.writers import RESERVED, read_metrics

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "experiments/image_classification/digits.py"
PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(BUILT_IN.glob("*/README.md")),
]
COMING = set()  # the README names them as what comes next; take out when described
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def read(page):
    return (ROOT / page).read_text()


def blocks(text, language):
    """Title and content of the fenced blocks of a language."""
    return [(title, content) for found, title, content in FENCE.findall(text) if found == language]


def shell_lines(text):
    """Lines of shell blocks, continued ones joined."""
    joined = "\n".join(content for _, content in blocks(text, "sh")).replace("\\\n", " ")
    return joined.splitlines()


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


# Commands


def commands(text):
    """Words of every `offsites` command in the shell blocks, without what stands around it."""
    found = re.findall(r"(?<![\w/.-])offsites ([^;|&#\n]+)", "\n".join(shell_lines(text)))
    return [shlex.split(command) for command in found]


def parser_of(verb):
    parser = argparse.ArgumentParser(prog=f"offsites {verb}")
    importlib.import_module(f"offsites_jax.cli.{VERBS[verb][0]}").add_arguments(parser)
    return parser


def check_command(words):
    """Parses a command as `offsites` would, and checks experiment and overrides; runs nothing."""
    verb, *arguments = words
    if verb in VERBS:
        options, rest = parser_of(verb).parse_known_args(arguments)
        overrides = parse_overrides(rest)
        if getattr(options, "experiment", None):
            load_experiment(ROOT / options.experiment, overrides)
        return
    jobs = find_project(verb).module("jobs").JOBS
    idle = {name: functools.wraps(job)(lambda *_, **__: None) for name, job in jobs.items()}
    tyro.extras.subcommand_cli_from_dict(idle, prog="offsites", args=arguments)


@pytest.mark.parametrize("page", names(page for page in PAGES if page.name != "CONTRIBUTING.md"))
def test_every_command_parses(page):
    for words in commands(read(page)):
        check_command(words)


def test_the_check_of_commands_notices_mistakes():
    for wrong in (
        f"train {DIGITS}",
        f"train {DIGITS} --workdir x --config.train.stepz=1",
        "export workdirs/digits --form stablehlos --no-such",
        "image_classification worst --workdirr x",
        "train no_such_experiment.py --workdir x",
        "nosuchverb x",
    ):
        with pytest.raises((SystemExit, errors.UserError)):
            check_command(wrong.split())


@pytest.mark.parametrize("page", names(PAGES))
def test_every_verb_and_option_in_the_text_exists(page):
    spans = [code.split() for code in inline_code(read(page)) if code.startswith("offsites ")]
    for verb, *rest in (words[1:] for words in spans):
        if verb.startswith("<") or verb.isupper():
            continue  # a placeholder
        assert verb in VERBS or verb in list_projects() or verb == "--help", f"offsites {verb}"
        if verb in VERBS:
            known = parser_of(verb).format_help()
            assert all(word.partition("=")[0] in known for word in rest if word.startswith("--")), rest


def test_every_verb_is_described():
    told = " ".join(map(read, names(PAGES)))
    assert not [verb for verb in VERBS if f"offsites {verb}" not in told and verb not in COMING]


@pytest.mark.parametrize("page", names(PAGES))
def test_every_make_target_exists(page):
    text = read(page)
    told = re.findall(r"^make (\w+)", "\n".join([*shell_lines(text), *inline_code(text)]), re.MULTILINE)
    targets = re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE)
    assert set(told) <= set(targets)


# Names


@pytest.mark.parametrize("page", names(PAGES))
def test_every_link_resolves(page):
    for link in re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", read(page))):
        if not link.startswith("https://"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("page", names(PAGES))
def test_every_file_named_exists(page):
    rooms = "tools|tests|experiments|docs|nn|models|data|parallel|train|projects|export|cli"
    text = re.sub(r"\]\([^)]+\)", "", read(page))
    for file in re.findall(rf"(?<![\w/.])(?:{rooms})/[\w/]+\.(?:py|md)\b", text):
        if not file.startswith("experiments/sine/"):
            assert (ROOT / file).exists() or (ROOT / "offsites_jax" / file).exists(), file


def test_every_project_has_a_page():
    for task in BUILT_IN.glob("*/task.py"):
        assert (ROOT / "docs" / "projects" / f"{task.parent.name}.md").exists()


def test_every_benchmark_and_its_figures_are_explained():
    explained, script = {}, ""
    for row in re.findall(r"^\|.*`.*\|$", read("docs/performance.md"), re.MULTILINE):
        _, file, figures, *_ = row.split("|")
        script = file.strip("` ") or script
        explained.setdefault(script, []).extend(re.findall(r"`(\w+)`", figures))
    assert set(explained) == {f"tools/bench/{file.name}" for file in (ROOT / "tools" / "bench").glob("*.py")}
    for script, figures in explained.items():
        assert figures
        assert all(f'"{figure}"' in read(script) for figure in figures), figures


# Facts


def test_the_configuration_reference_is_up_to_date():
    page = runpy.run_path(str(ROOT / "tools" / "docs" / "configuration.py"))["page"]
    assert read("docs/configuration.md") == page(), "run python tools/docs/configuration.py"


def all_errors():
    """Every kind of error with an exit code, whatever module it lives in."""
    importlib.import_module("offsites_jax.cli.together")
    importlib.import_module("offsites_jax.train.loop")
    importlib.import_module("offsites_jax.cli.launch.tools")
    return [
        error
        for error in errors.OffsitesError.__subclasses__()
        if error.__module__.startswith("offsites_jax")
    ]


def test_exit_codes_are_those_of_the_errors():
    table = read("docs/reliability.md").partition("## Exit codes")[2].partition("## ")[0]
    told = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE)}
    assert told == {error.__name__: error.exit_code for error in (errors.OffsitesError, *all_errors())}


# Code


@pytest.mark.parametrize("page", names(PAGES))
def test_what_python_blocks_import_exists(page):
    for _, code in blocks(read(page), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("offsites_jax"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
        for name in re.findall(r"\boffsites_jax\.(\w+)\(", code):
            assert name in importlib.import_module("offsites_jax").__all__, name


@pytest.mark.parametrize("page", names(PAGES))
def test_pieces_of_experiments_are_valid(page):
    for _, code in blocks(read(page), "python"):
        if code.startswith("config."):
            config = runpy.run_path(str(ROOT / DIGITS))["get_config"]()
            exec(code, {"config": config})
            resolve(plain(config))


def test_the_experiment_of_the_readme_is_valid(tmp_path):
    (code,) = (code for _, code in blocks(read("README.md"), "python") if "def get_config" in code)
    (tmp_path / "whole.py").write_text(code)
    experiment = load_experiment(tmp_path / "whole.py")
    assert isinstance(runpy.run_path(str(tmp_path / "whole.py"))["get_config"](), ml_collections.ConfigDict)
    assert experiment.train.steps


# The sample system


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The folder in which the sample of CONTRIBUTING.md was written down and run, and what it printed."""
    folder = tmp_path_factory.mktemp("sample")
    section = read("CONTRIBUTING.md").partition("## Add a project in 6 files")[2].partition("\n## ")[0]
    for language in ("python", "markdown"):
        for title, content in blocks(section, language):
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(content)
    (script,) = (content for _, content in blocks(section, "sh"))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "OFFSITES_CACHE": str(folder / "cache"),
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_sample_system_trains_and_predicts(sample):
    folder, printed = sample
    lines = read_metrics(folder / "workdirs" / "sine")
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < 0.2 * losses[0]
    assert [line["points"] for line in lines if line["split"] == "test"] == [200, 200, 200]
    job, prediction, *table = printed.splitlines()
    wanted = 0.7833  # sin(0.9)
    assert float(job.split()[-1]) == pytest.approx(wanted, abs=0.15)
    assert json.loads(prediction)["fit"] == pytest.approx(wanted, abs=0.15)
    assert "reproduced" in table[-1]


def test_the_sample_has_all_files_of_a_project(sample):
    expected = {"README.md", *(f"{part}.py" for part in (*PARTS, "jobs"))}
    for project in BUILT_IN.glob("*/task.py"):
        assert expected <= {file.name for file in project.parent.iterdir()}
    assert {file.name for file in (sample[0] / "systems" / "sine").iterdir()} - {"__pycache__"} == expected


def test_a_workdir_holds_what_is_told(sample):
    table = read("docs/index.md").partition("leaves in its workdir")[2].partition("## ")[0]
    told = set(re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE))
    left = {file.name for file in (sample[0] / "workdirs" / "sine").iterdir()}
    assert told == left | {"compile_cache"}  # this one was put elsewhere


def test_every_key_of_the_log_is_explained(sample):
    told = set(inline_code(read("docs/observability.md")))
    (keys,) = {
        frozenset(line) for line in read_metrics(sample[0] / "workdirs" / "sine") if line["split"] == "train"
    }
    assert keys - {"absolute_error"} - set(RESERVED) <= told


def test_the_python_interface_works_as_printed(sample, monkeypatch):
    (code,) = (code for _, code in blocks(read("README.md"), "python") if "import offsites_jax" in code)
    assert DIGITS in code
    assert code in read("docs/index.md")
    (sample[0] / "api.py").write_text(code.replace(DIGITS, "experiments/sine/small.py"))
    monkeypatch.chdir(sample[0])
    monkeypatch.setenv("OFFSITES_PATH", "systems")
    values = runpy.run_path("api.py")
    assert values["result"].scores["test/points"] == 200
    assert (values["step"], values["scores"]) == (100, values["result"].scores)
    assert values["outputs"]["fit"].shape == (8,)
