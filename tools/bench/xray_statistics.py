"""Statistics of a reader study against the plain way: one JSON line per figure.

python tools/bench/xray_statistics.py

DeLong's variance by sorting against all pairs (at a size where those fit into memory) and at 100,000 cases;
1,000 draws of patients as weighted counts against a loop that sorts each draw (fewer draws, scaled up). Both
sides take turns; the fastest of several runs counts. Ends with code 1 if the two disagree.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from offsites_jax.projects.chest_xray.accuracy.bootstrap import cluster_bootstrap
from offsites_jax.projects.chest_xray.accuracy.roc import delong

PAIRS, MANY = 4_000, 100_000
CASES, DRAWS, LOOPED = 10_000, 1_000, 20
REPEATS = 3


def made(cases: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and patients, 2.5 images a patient."""
    rng = np.random.default_rng(0)
    patients = rng.integers(0, int(cases / 2.5), cases)
    labels = rng.random(cases) < 0.3
    return labels, rng.normal(size=cases) + labels, patients


def all_pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    """DeLong's variance as it is defined."""
    positives, negatives = scores[labels][:, None], scores[~labels][None]
    kernel = (positives > negatives) + 0.5 * (positives == negatives)
    return sum(part.var(ddof=1) / len(part) for part in (kernel.mean(axis=1), kernel.mean(axis=0)))


def loop(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, draws: int) -> np.ndarray:
    """Areas of draws of patients, one after another."""
    rng = np.random.default_rng(0)
    order = np.argsort(patients, kind="stable")
    images = np.split(order, np.flatnonzero(np.diff(patients[order])) + 1)
    areas = []
    for _ in range(draws):
        rows = np.concatenate([images[patient] for patient in rng.integers(0, len(images), len(images))])
        areas.append(roc_auc_score(labels[rows], scores[rows]))
    return np.array(areas)


def fastest(*functions: Callable[[], object]) -> list[float]:
    """Seconds of each, the best of several turns."""
    seconds = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, own in zip(functions, seconds, strict=True):
            begin = time.perf_counter()
            function()
            own.append(time.perf_counter() - begin)
    return [min(own) for own in seconds]


def report(name: str, value: float, **about: float) -> None:
    """One line of JSON."""
    print(json.dumps({"name": name, "value": round(value, 4), **about}), flush=True)


def main() -> None:
    labels, scores, _ = made(PAIRS)
    ours, theirs = fastest(lambda: delong(labels, scores), lambda: all_pairs(labels, scores))
    report("delong_speedup", theirs / ours, cases=PAIRS, seconds=ours, all_pairs_seconds=theirs)
    same = np.isclose(delong(labels, scores).variance, all_pairs(labels, scores), rtol=1e-9)

    labels, scores, _ = made(MANY)
    (seconds,) = fastest(lambda: delong(labels, scores))
    report("delong_seconds", seconds, cases=MANY)

    labels, scores, patients = made(CASES)
    ours, theirs = fastest(
        lambda: cluster_bootstrap(labels, scores, patients, DRAWS),
        lambda: loop(labels, scores, patients, LOOPED),
    )
    theirs *= DRAWS / LOOPED
    about = {"cases": CASES, "draws": DRAWS, "seconds": ours, "loop_seconds": theirs}
    report("bootstrap_speedup", theirs / ours, **about)
    spread = cluster_bootstrap(labels, scores, patients, DRAWS).values.std()
    alike = abs(spread / loop(labels, scores, patients, 200).std() - 1) < 0.25
    sys.exit(0 if same and alike else 1)


if __name__ == "__main__":
    main()
