"""Intervals of proportions and kappas by statsmodels, for tests/projects/chest_xray/accuracy.

Needs statsmodels 0.15.0, nothing of this project:

    python tools/golden/proportions.py
"""

import json
import pathlib

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
from statsmodels.stats.proportion import proportion_confint

FILE = pathlib.Path(__file__).parents[2] / "tests/projects/chest_xray/accuracy/golden/proportions.json"
COUNTS = [(0, 1), (1, 1), (0, 20), (20, 20), (1, 20), (13, 20), (95, 100), (1135, 1962), (3, 12_345)]
LEVELS = (0.95, 0.8)


def intervals():
    """Both intervals of every count at every level."""
    for successes, total in COUNTS:
        for level in LEVELS:
            ends = {
                name: [float(end) for end in proportion_confint(successes, total, 1 - level, method)]
                for name, method in (("clopper_pearson", "beta"), ("wilson", "wilson"))
            }
            yield {"successes": successes, "total": total, "level": level, **ends}


def kappas():
    """Votes of five readers, Fleiss' kappa of all and Cohen's of the first two."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = rng.random(60) < 0.3
        votes = truth ^ (rng.random((5, 60)) < 0.05 * (1 + seed))
        table = np.stack([(votes == vote).sum(axis=0) for vote in (0, 1)], axis=1)
        pair = np.array([[(votes[0] == a)[votes[1] == b].sum() for a in (0, 1)] for b in (0, 1)])
        yield {
            "votes": votes.astype(int).tolist(),
            "fleiss": float(fleiss_kappa(table)),
            "cohen": float(cohens_kappa(pair).kappa),
        }


def main():
    """Write the file."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps({"intervals": list(intervals()), "kappas": list(kappas())}) + "\n")


if __name__ == "__main__":
    main()
