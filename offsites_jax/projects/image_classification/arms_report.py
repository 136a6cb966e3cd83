"""Arms side by side: the table, what it can and cannot show, and the picture."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from offsites_jax.data.atomic import write_atomically
from offsites_jax.projects.image_classification.arms import Result
from offsites_jax.train.media import encode_figure
from offsites_jax.train.plan_report import scaled


def write_report(folder: epath.PathLike, results: Sequence[Result], measured_on: str) -> None:
    """Writes `arms.json`, `arms.md` and `arms.png` into the folder of a comparison."""
    path = epath.Path(folder)
    content = json.dumps(report_json(results, measured_on), indent=2) + "\n"
    write_atomically(path / "arms.json", content.encode())
    write_atomically(path / "arms.md", report_markdown(results, measured_on).encode())
    write_atomically(path / "arms.png", encode_figure(arms_figure(results)).content)


def report_json(results: Sequence[Result], measured_on: str) -> dict[str, Any]:
    """All figures as JSON types: every run, and by variant the mean and the range over seeds."""
    return {
        "measured_on": measured_on,
        "chance": chance(results),
        "runs": [dataclasses.asdict(result) for result in results],
        "variants": {name: _summary(own) for name, own in by_variant(results).items()},
    }


def report_markdown(results: Sequence[Result], measured_on: str) -> str:
    """A page for people."""
    seeds = sorted({result.run.seed for result in results})
    lines = [
        f"# {len(by_variant(results))} arms, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}",
        "",
        "![learning curves, accuracy and seconds](arms.png)",
        "",
        *run_table(results),
    ]
    if len(seeds) > 1:
        lines += ["", "## Mean over seeds", "", *variant_table(results)]
    lines += ["", "## What this can and cannot show", "", *limits(results, measured_on)]
    return "\n".join(lines) + "\n"


def run_table(results: Sequence[Result]) -> list[str]:
    """Lines of a markdown table with a row for each run."""
    head = (
        "arm", "seed", "accuracy", "wrong", "training minus test", "parameters", "MACs", "steps",
        "train steps, s", "ms a step", "data wait, s", "compile, s",
    )  # fmt: skip
    rows = []
    for result in results:
        run = result.run
        rows.append(
            (
                result.variant,
                run.seed,
                f"{run.accuracy:.4f}",
                round((1 - run.accuracy) * run.images) if run.images else "-",
                "-" if run.gap is None else f"{run.gap:+.4f}",
                f"{run.params:,}",
                scaled(run.macs),
                run.steps,
                f"{run.step_seconds:.1f}",
                f"{1e3 * run.step_seconds / run.steps:.1f}",
                f"{run.wait_seconds:.1f}",
                "-" if result.compile_seconds is None else f"{result.compile_seconds:.1f}",
            )
        )
    return _table(head, rows)


def variant_table(results: Sequence[Result]) -> list[str]:
    """Lines of a markdown table with a row for each variant."""
    head = ("arm", "seeds", "accuracy", "lowest", "highest", "train steps, s")
    rows = []
    for name, own in by_variant(results).items():
        summary = _summary(own)
        accuracies = (f"{summary[key]:.4f}" for key in ("accuracy", "lowest", "highest"))
        rows.append((name, len(own), *accuracies, f"{summary['step_seconds']:.1f}"))
    return _table(head, rows)


def limits(results: Sequence[Result], measured_on: str) -> list[str]:
    """What to keep in mind, as a markdown list."""
    seeds, images = {result.run.seed for result in results}, {result.run.images for result in results}
    said = []
    if min(images) > 0:
        said.append(
            f"- {min(images):,} test images: two equally good networks differ by more than "
            f"{chance(results):.3f} once in twenty times. Smaller differences show nothing."
        )
    if len(seeds) == 1:
        said.append("- One seed: how much another one changes was not measured (`--seeds 0 1 2`).")
    return [
        *said,
        f"- Seconds are those of {measured_on}, one arm after another; whatever else ran there is in them. "
        "Compiling, evaluating and saving are not; compiling was once for each size of images, and is next "
        "to nothing where the compiled programs were kept.",
        "- An arm differs from another in all that the experiment file says, parameters and MACs included: "
        "a schedule is compared by arms of one network, a network by arms of one schedule.",
        *_limits_of_gaps(results),
        "- It holds for these images and this many steps. Which arm would win on more or larger images, or "
        "in a longer run, it does not show.",
    ]


def _limits_of_gaps(results: Sequence[Result]) -> list[str]:
    """What the column of the gap is, where there is one."""
    kinds = {result.run.plain_gap for result in results if result.run.gap is not None}
    said = []
    if True in kinds:
        said.append("- Training minus test: both on images prepared as for evaluation, at the end.")
    if False in kinds:
        said.append(
            "- Training minus test: accuracy on augmented images in the last interval of the log, minus that "
            "at the end; regularisation lowers it, so compare arms of one recipe."
        )
    return said


def chance(results: Sequence[Result]) -> float:
    """Difference of two accuracies that equal networks exceed in 5 % of comparisons; 0 if unknown.

    By the normal approximation for two independent samples, with the mean accuracy of all arms, an image
    counted as wrong and one as right on top so that a perfect score does not make it 0.
    """
    images = min(result.run.images for result in results)
    if not images:
        return 0.0
    mean = statistics.fmean(result.run.accuracy for result in results)
    share = (mean * images + 1) / (images + 2)
    return 1.96 * math.sqrt(2 * share * (1 - share) / images)


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by variant, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.variant, []).append(result)
    return found


def arms_figure(results: Sequence[Result]) -> Figure:
    """Accuracy over steps, accuracy at the end, and where the seconds went; a colour for each variant."""
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    curves, ends, seconds = figure.subplots(1, 3)
    names = list(by_variant(results))
    for row, (name, own) in enumerate(by_variant(results).items()):
        colour = f"C{row % 10}"
        for index, result in enumerate(own):
            steps, values = zip(*result.run.curve, strict=True)
            curves.plot(steps, values, color=colour, marker="o", ms=3, label=None if index else name)
            ends.plot(result.run.accuracy, row, "o", color=colour)
        summary = _summary(own)
        ends.errorbar(summary["accuracy"], row, xerr=chance(results) / 2, color=colour, capsize=4, alpha=0.5)
        parts = (("step_seconds", 1.0), ("wait_seconds", 0.55), ("compile_seconds", 0.25))
        left = 0.0
        for key, alpha in parts:
            seconds.barh(row, summary[key], left=left, color=colour, alpha=alpha)
            left += summary[key]
    curves.set(xlabel="step", ylabel=results[0].run.metric, title="learning curves")
    ends.set(xlabel=results[0].run.metric, title="at the end; bars that overlap may be chance")
    seconds.set(xlabel="seconds: steps, data wait (pale), compiling (palest)", title="time")
    curves.legend(fontsize=8)
    for axes in (ends, seconds):
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
    for axes in (curves, ends, seconds):
        axes.grid(alpha=0.3)
    return figure


def _summary(results: Sequence[Result]) -> dict[str, float]:
    """Means over the seeds of one variant, and the range of accuracy."""
    accuracies = [result.run.accuracy for result in results]
    return {
        "accuracy": statistics.fmean(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "step_seconds": statistics.fmean(result.run.step_seconds for result in results),
        "wait_seconds": statistics.fmean(result.run.wait_seconds for result in results),
        "compile_seconds": statistics.fmean(result.compile_seconds or 0.0 for result in results),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]
