"""The main job from nothing to a checked export: train, evaluate, export, reload elsewhere, compare.

python tools/quickstart.py --workdir workdirs/digits
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "image_classification" / "digits.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "workdirs" / "digits")
    workdir = parser.parse_args().workdir
    begin = time.perf_counter()
    offsites("train", str(EXPERIMENT), "--workdir", str(workdir))
    train_seconds = time.perf_counter() - begin
    scores = json.loads(offsites("eval", "--workdir", str(workdir), "--json", capture=True))
    exported = workdir / "export"
    offsites("export", "--workdir", str(workdir), "--output", str(exported), "--overwrite")
    # A fresh process loads the export; the live model's answers come from the checkpoint.
    difference = json.loads(
        offsites("verify", "--workdir", str(workdir), "--exported", str(exported), "--json", capture=True)
    )
    for name in ("metrics.jsonl", "artifacts/curves.png", "artifacts/test", "export"):
        print(workdir / name)
    print(
        f"quickstart: test_accuracy={scores['test/accuracy']:.4f} "
        f"export_max_abs_diff={difference['max_abs_diff']:.3g} train_seconds={train_seconds:.1f}"
    )


def offsites(*arguments: str, capture: bool = False) -> str:
    """Runs the command of this environment; its own messages stay visible."""
    command = [sys.executable, "-m", "offsites_jax.cli.main", *arguments]
    print("$ offsites", *arguments, file=sys.stderr)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    main()
