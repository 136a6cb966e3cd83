"""KDE, nearest neighbours and one Gaussian of 512 columns on this CPU, against scikit-learn.

    python tools/bench/scorers.py [--train 10000] [--test 10000] [--rounds 3]

Each side fits and scores in a process of its own, so that peak memory (of `resource.getrusage`) is its own
too; rounds alternate and the median time is taken, after one round that compiles. One JSON line a scorer and
figure, ours over theirs, so below 1 we are better: `scorer_time_ratio` of fitting and scoring, and
`scorer_memory_ratio` of peak memory. The latter counts libraries and data; what the work added to them is in
the same line. Scores of both sides are compared first: the bench fails if they differ by more than 1e-5.

scikit-learn's `KernelDensity` walks a tree, which in 512 dimensions prunes nothing and takes minutes: it is
given every 20th test feature, and its time is scaled up by as much (it is linear in them). So that there is a
fair competitor as well, the line `kde blas` has the same density by numpy, in blocks of 1024.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
DIM = 512
KDE_SHARE = 20
TOLERANCE = 1e-5
SCORERS = ("kde", "kde blas", "knn", "gde")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scorers", nargs="*", default=list(SCORERS), choices=SCORERS)
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_features(pathlib.Path(folder), options)
        for scorer in options.scorers:
            compare(scorer, pathlib.Path(folder), options)


def make_features(folder: pathlib.Path, options) -> None:
    """Features like pooled ReLU activations: positive, correlated, with a spectrum that falls off."""
    import numpy as np

    rng = np.random.default_rng(0)
    mix = rng.standard_normal((DIM, DIM)) * np.geomspace(1, 0.1, DIM)[:, None] / DIM**0.5
    for name, count in (("train", options.train), ("test", options.test)):
        features = np.maximum(rng.standard_normal((count, DIM)) @ mix + 0.3, 0)
        np.save(folder / f"{name}.npy", features.astype(np.float32))


def compare(scorer: str, folder: pathlib.Path, options) -> None:
    """Runs both sides by turns and prints two lines."""
    import numpy as np

    rounds = 1 if scorer == "kde" else options.rounds
    run = [sys.executable, __file__, f"--folder={folder}", f"--rounds={rounds}", f"--scorers={scorer}"]
    sides = {
        side: subprocess.Popen(
            [*run, "--serve", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side in ("ours", "theirs")
    }
    seconds = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, process in sides.items():
            if turn or side == "ours":  # only we have something to compile
                seconds[side].append(ask(process, "run"))
    seconds = {side: statistics.median(values[-rounds:]) for side, values in seconds.items()}
    memory = {side: ask(process, "memory") for side, process in sides.items()}
    for process in sides.values():
        process.communicate("")
    scores = {side: np.load(folder / f"{side}.npy") for side in sides}
    share = len(scores["ours"]) // len(scores["theirs"])
    difference = np.max(np.abs(scores["ours"][::share] / scores["theirs"] - 1))
    if difference > TOLERANCE:
        raise SystemExit(f"{scorer}: scores differ by {difference:.1e}")
    about = {
        "scorer": scorer,
        "train": options.train,
        "test": options.test,
        "largest_relative_difference": float(f"{difference:.1e}"),
    }
    seconds["theirs"] *= share
    report("scorer_time_ratio", seconds["ours"] / seconds["theirs"], about | in_unit(seconds, "s"))
    peaks = {side: value["peak"] for side, value in memory.items()}
    added = {f"{side}_added_mb": value["added"] for side, value in memory.items()}
    report("scorer_memory_ratio", peaks["ours"] / peaks["theirs"], about | in_unit(peaks, "mb") | added)


def ask(process, question: str):
    print(question, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def in_unit(values: dict, unit: str) -> dict:
    return {f"{side}_{unit}": round(value, 2) for side, value in values.items()}


def report(figure: str, value: float, about: dict) -> None:
    line = {"name": figure, "value": round(value, 3), "unit": "ours / scikit-learn"}
    print(json.dumps(line | about), flush=True)


def serve(options) -> None:
    """One side: answers "run" with seconds of fitting and scoring, "memory" with megabytes."""
    import numpy as np

    folder = pathlib.Path(options.folder)
    train, test = (np.load(folder / f"{name}.npy") for name in ("train", "test"))
    work = {"ours": ours, "theirs": theirs}[options.serve](options.scorers[0])
    before = peak()
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps({"peak": peak(), "added": round(peak() - before, 2)}), flush=True)
            continue
        begin = time.perf_counter()
        scores = work(train, test)
        print(json.dumps(time.perf_counter() - begin), flush=True)
        np.save(folder / f"{options.serve}.npy", scores)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(name: str):
    """A function from features to scores."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from offsites_jax.parallel.start import start
    from offsites_jax.projects.one_class.scorers import ScorerSettings, fit

    start(cpu_devices=1, cache=ROOT / ".cache" / "jax")
    settings = ScorerSettings(name.split()[0])
    return lambda train, test: fit(settings, train).score(test)


def theirs(name: str):
    """The same with scikit-learn (or numpy, of "kde blas")."""
    import numpy as np
    from scipy import special
    from sklearn import covariance, neighbors
    from sklearn.preprocessing import normalize

    def kde(train, test):
        unit = normalize(train)
        gamma = 10 / (DIM * unit.var(dtype=np.float64))
        density = neighbors.KernelDensity(bandwidth=1 / np.sqrt(2 * gamma)).fit(unit)
        constant = -0.5 * DIM * np.log(np.pi / gamma) - np.log(len(unit))
        return (constant - density.score_samples(normalize(test[::KDE_SHARE]))) / gamma - 2

    def kde_blas(train, test):
        unit, others = normalize(train), normalize(test)
        gamma = 10 / (DIM * unit.var(dtype=np.float64))
        pieces = range(0, len(others), 1024)
        sums = [special.logsumexp(2 * gamma * (others[i : i + 1024] @ unit.T), axis=1) for i in pieces]
        return -np.concatenate(sums) / gamma

    def knn(train, test):
        index = neighbors.NearestNeighbors(n_neighbors=1, metric="cosine").fit(train)
        return index.kneighbors(test)[0][:, 0]

    def gde(train, test):
        return 0.5 * covariance.LedoitWolf().fit(normalize(train)).mahalanobis(normalize(test))

    return {"kde": kde, "kde blas": kde_blas, "knn": knn, "gde": gde}[name]


if __name__ == "__main__":
    main()
