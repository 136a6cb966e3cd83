"""Programs that stand in for Slurm's, kubectl, gcloud and xpk, and words that are hard to pass on."""

import json
import pathlib
import re
import sys

import pytest

from offsites_jax.cli.main import run

ROOT = pathlib.Path(__file__).parents[3]

ODD = 'it\'s "odd" $(touch oops) `touch oops` $HOME $$ $(HOME) ${X} %j {0} & | ; * ? ~ # \\ <a> !x é'

# A program that writes down how it was called, does what it is told, and tells what it read.
FAKE = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
name = pathlib.Path(sys.argv[0]).name
folder = pathlib.Path(os.environ["FAKES"])
count = len(list(folder.glob(name + ".*.json")))
call = dict(argv=sys.argv[1:], environ=dict(os.environ), stdin="" if sys.stdin.isatty() else sys.stdin.read())
(folder / f"{{name}}.{{count}}.json").write_text(json.dumps(call))
codes = json.loads(os.environ.get("FAKE_CODES", "{{}}")).get(name, [0])
code = codes[min(count, len(codes) - 1)]
if code == "wait":
    signal.signal(signal.SIGTERM, lambda number, frame: (time.sleep(0.3), sys.exit(75)))
    (folder / "waiting").touch()
    time.sleep(60)
sys.exit(code)
"""


@pytest.fixture
def experiment():
    """An experiment file, as seen from the project's folder."""
    return "tests/systems/curve_experiment.py"


@pytest.fixture
def odd():
    """A word with all that a shell, YAML, Slurm or Kubernetes could take for something else."""
    return ODD


@pytest.fixture
def odder():
    """The same with line breaks, and lines that could be taken for something else."""
    return f"{ODD}\nsecond\tline\n#SBATCH --nodes=99\n- yaml: [\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The launcher runs in the project's folder, with the test systems, and finds no tools but fakes."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OFFSITES_PATH", str(ROOT / "tests" / "systems"))
    monkeypatch.setenv("PATH", f"{fakes}:/usr/bin:/bin")
    monkeypatch.setenv("FAKES", str(fakes))
    return fakes


@pytest.fixture
def fake(place, monkeypatch):
    """Puts programs in the path that end with these codes, one call after the other."""

    def make(**codes):
        for name in codes:
            (place / name).write_text(FAKE)
            (place / name).chmod(0o755)
        monkeypatch.setenv("FAKE_CODES", json.dumps(codes))

    return make


@pytest.fixture
def calls(place):
    """How a fake was called so far."""
    return lambda name: [json.loads(file.read_text()) for file in sorted(place.glob(f"{name}.*.json"))]


@pytest.fixture
def launch(place, experiment):
    """`offsites launch`, in this process."""

    def run_verb(target, *options, workdir="gs://bucket/run", experiment=experiment):
        return run(["launch", experiment, f"--on={target}", f"--workdir={workdir}", *options])

    return run_verb


@pytest.fixture
def printed(launch, capsys):
    """What --dry-run prints."""

    def dry_run(target, *options, **where):
        assert launch(target, *options, "--dry-run", **where) == 0
        return capsys.readouterr().out

    return dry_run


@pytest.fixture
def expand():
    """What Kubernetes makes of a word of `command`, `args` or `env`: $(NAME) is replaced, $$ is one $."""

    def one(found, variables):
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return lambda word, variables: re.sub(r"\$\$|\$\(([^)]*)\)", lambda found: one(found, variables), word)
