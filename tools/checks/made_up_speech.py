"""Made-up speech, from eSpeak NG to a personal recogniser, in one command.

In an environment with offsites-jax[speech]:

    python tools/checks/made_up_speech.py [--workdir WORKDIR]

Speaks commands in many clear voices and one made hard to understand, trains a base on the clear ones, and
gives the hard voice lower layers of its own. Prints a line of JSON for each thing that was checked: that the
base understands clear voices, that its errors on the hard one are at least halved, and that nothing but the
lower five layers differs. Ends with 1 if one of them failed. It tests the code; it is not like a person's
speech.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from offsites_jax.projects.euphonia.loading import load
from offsites_jax.train.state import flatten

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments/euphonia/small_cpu.py"
PERSONAL = ("--steps", "600", "--learning-rate", "1e-3", "--utterances", "8", "--no-mask")
OWN = tuple(f"encoder/layers_{number}/" for number in range(5))
MOST_ERRORS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", help="kept, and gone on with; a temporary one unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.workdir or temporary)
        begin = time.monotonic()
        run("euphonia", "synthesize", folder / "speech")
        data = f"--config.data.path={folder / 'speech/base'}"
        run("train", EXPERIMENT, "--workdir", folder / "base", data)
        where = ("--base", folder / "base", "--workdir", folder / "personal")
        run("euphonia", "personalize", folder / "speech/personal", *where, *PERSONAL)
        seconds = round(time.monotonic() - begin)
        sys.exit(not all([understands(folder, seconds), halves(folder), keeps_the_rest(folder)]))


def run(*command: str | pathlib.Path) -> None:
    """A command of `offsites`, whose output goes to standard error."""
    words = [sys.executable, "-m", "offsites_jax.cli.main", *map(str, command)]
    subprocess.run(words, check=True, stdout=sys.stderr)


def report(name: str, good: bool, **facts: object) -> bool:
    """Prints what was found."""
    print(json.dumps({"name": name, "ok": good, **facts}), flush=True)
    return good


def understands(folder: pathlib.Path, seconds: int) -> bool:
    """Clear voices saying what training never had."""
    rows = [json.loads(line) for line in (folder / "base/metrics.jsonl").read_text().splitlines()]
    wer = [row["wer"] for row in rows if row["split"] == "test"][-1]
    return report("clear_voices", wer <= MOST_ERRORS, wer=round(wer, 4), seconds_of_all_commands=seconds)


def halves(folder: pathlib.Path) -> bool:
    """The hard voice before and after, saying what its training never had."""
    median = json.loads((folder / "personal/outcomes.json").read_text())["median"]
    good = median["personal"] <= median["base"] / 2
    return report("hard_voice", good, before=round(median["base"], 4), after=round(median["personal"], 4))


def keeps_the_rest(folder: pathlib.Path) -> bool:
    """Which parameters of the personal recogniser are not bit for bit the base's."""
    speaker = next(iter(json.loads((folder / "personal/outcomes.json").read_text())["speakers"]))
    base, own = (
        flatten(jax.device_get(load(run, name).variables["params"]))
        for run, name in ((folder / "base", ""), (folder / "personal", speaker))
    )
    changed = {name for name, leaf in own.items() if not np.array_equal(leaf, base[name])}
    good = bool(changed) and all(name.startswith(OWN) for name in changed)
    return report("only_lower_layers_differ", good, changed=len(changed), of=len(own))


if __name__ == "__main__":
    main()
