"""What a search found: the best by reward, what no other network beats, and the picture of both."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure

from offsites_jax.data.atomic import write_atomically
from offsites_jax.projects.image_classification.search.overrides import flag
from offsites_jax.projects.image_classification.search.reward import pareto
from offsites_jax.projects.image_classification.search.space import Backbone
from offsites_jax.projects.image_classification.search.study import Study
from offsites_jax.projects.image_classification.search.trials import Trial
from offsites_jax.train.media import encode_figure
from offsites_jax.train.plan_report import scaled

TOP = 10


def write_report(study: Study, rows: Sequence[Trial]) -> None:
    """Writes `report.json`, `report.md` and `pareto.png` into the folder of a search."""
    found = report_json(study, rows)
    write_atomically(study.folder / "report.json", (json.dumps(found, indent=2) + "\n").encode())
    write_atomically(study.folder / "report.md", report_markdown(study, rows).encode())
    write_atomically(study.folder / "pareto.png", encode_figure(pareto_figure(rows)).content)


def trained(rows: Sequence[Trial]) -> list[Trial]:
    """The networks that were trained to the end, each once."""
    return [row for row in rows if row.status == "ok"]


def unbeaten(rows: Sequence[Trial]) -> Bool[np.ndarray, "trials"]:
    """Which trials no other one beats in accuracy, step time and parameters together."""
    return pareto(np.array([(-row.accuracy, row.step_seconds, row.params) for row in rows]))


def ranked(rows: Sequence[Trial]) -> list[Trial]:
    """Trained networks, the best reward first."""
    return sorted(trained(rows), key=lambda row: -row.reward)


def report_json(study: Study, rows: Sequence[Trial]) -> dict[str, Any]:
    """The figures of a search as JSON types; trials are told by their index."""
    done = trained(rows)
    return {
        "space": study.space.count,
        "trials": len(rows) - 1,
        "failed": [row.index for row in rows if row.status == "failed"],
        "repeated": [row.index for row in rows if row.status == "repeat"],
        "by_reward": [row.index for row in ranked(rows)],
        "pareto": [row.index for row, kept in zip(done, unbeaten(done), strict=True) if kept],
        "best": {
            "trial": ranked(rows)[0].index,
            "overrides": study.backbone.overrides(ranked(rows)[0].blocks),
        },
    }


def report_markdown(study: Study, rows: Sequence[Trial]) -> str:
    """A page for people: settings, the best, the unbeaten, the failures, and how to train the best."""
    done, best, settings = trained(rows), ranked(rows), study.settings
    kept = [row for row, stays in zip(done, unbeaten(done), strict=True) if stays]
    failures = [row for row in rows if row.status == "failed"]
    lines = [
        "# Architecture search",
        "",
        f"{len(rows) - 1} of {study.space.count:,} networks around {study.experiment.model.name}, by "
        f"{settings.sampler} search (seed {settings.seed}): {len(done) - 1} trained, {len(failures)} failed. "
        f"Reward: {settings.metric} x (step time / backbone's)^{settings.step_weight:g} x "
        f"(parameters / backbone's)^{settings.params_weight:g}. Trial 0 is the backbone.",
        "",
        "![accuracy over step time and parameters](pareto.png)",
        "",
        f"## The {min(TOP, len(best))} best by reward",
        "",
        *table(best[:TOP]),
        "",
        "## Unbeaten in accuracy, step time and parameters together",
        "",
        *table(sorted(kept, key=lambda row: row.step_seconds)),
        "",
        "## To train the best at full length",
        "",
        "```sh",
        "offsites train EXPERIMENT --workdir DIR \\",
        "  " + " \\\n  ".join(flags(study.backbone, best[0].blocks)),
        "```",
    ]
    if failures:
        lines += ["", "## Failed", "", *(f"- trial {row.index}: {row.reason}" for row in failures)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Trial]) -> list[str]:
    """Lines of a markdown table."""
    head = "| trial | reward | accuracy | step, ms | parameters | MACs | blocks |"
    return [head, "|---" * 7 + "|"] + [
        f"| {row.index} | {row.reward:.4f} | {row.accuracy:.4f} | {row.step_seconds * 1e3:.3g} "
        f"| {row.params:,} | {scaled(row.macs)} | `{' '.join(row.blocks)}` |"
        for row in rows
    ]


def flags(backbone: Backbone, blocks: Sequence[str]) -> list[str]:
    """Command-line overrides that make an experiment train a network of these blocks."""
    return [flag(f"model.overrides.{key}", value) for key, value in backbone.overrides(blocks).items()]


def pareto_figure(rows: Sequence[Trial]) -> Figure:
    """Accuracy over step time and over parameters, coloured by reward; the unbeaten are ringed."""
    done = trained(rows)
    kept = unbeaten(done)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    accuracy, reward = ([getattr(row, name) for row in done] for name in ("accuracy", "reward"))
    costs = (
        ("train step, ms", [row.step_seconds * 1e3 for row in done]),
        ("parameters, millions", [row.params / 1e6 for row in done]),
    )
    for axes, (label, cost) in zip(panels, costs, strict=True):
        points = axes.scatter(cost, accuracy, c=reward, s=50, cmap="viridis", zorder=2)
        axes.scatter(
            np.asarray(cost)[kept],
            np.asarray(accuracy)[kept],
            s=130,
            facecolors="none",
            edgecolors="tab:red",
            label="unbeaten in all three",
        )
        axes.scatter(cost[0], accuracy[0], marker="*", s=230, c="none", edgecolors="k", label="backbone")
        for row, x in list(zip(done, cost, strict=True))[:40]:  # more could not be read
            axes.annotate(
                str(row.index), (x, row.accuracy), xytext=(7, 4), textcoords="offset points", fontsize=8
            )
        axes.set_xlabel(label)
        axes.margins(0.12)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(fontsize=8, loc="best")
    figure.colorbar(points, ax=panels, label="reward")
    return figure
