"""What people do with tables of scores: an evaluation with all its figures, and a work list."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from tyro.conf import OmitArgPrefixes

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.commands.shared import banner
from offsites_jax.projects.chest_xray.evaluation.study import Options

TUNING = ("tuning", "tune", "val", "validation")
FIXED = 0.5


def evaluate(
    scores: str,
    labels: str = "",
    readers: str = "",
    output: str = "evaluation",
    tuning_split: str = "",
    test_split: str = "test",
    thresholds: str = "",
    label_column: str = "label",
    root: str = "",
    title: str = "Evaluation",
    against: tuple[str, ...] = (),
    arrivals_per_hour: float = 0.0,
    on_duty: int = 2,
    read_minutes: float = 5.0,
    options: OmitArgPrefixes[Options] = Options(),
) -> None:
    """Evaluates scores: report.html, report.json, tables and pictures.

    Thresholds come from the rows of the tuning split, from a file, or, with neither, are fixed at 0.5; never
    from the test cases.

    Args:
      scores: predictions.csv; with columns `label` and `split` it needs no other table.
      labels: table `image, patient_id, label, split` and what else is known, such as a manifest.
      readers: table `image, reader_id, label`.
      output: folder to write.
      tuning_split: value of `split` of the cases for thresholds and calibration; tuning, tune, val or
        validation unless told.
      test_split: of the cases to evaluate; without a column `split`, all cases are.
      thresholds: operating points, as `offsites chest_xray thresholds` writes them.
      label_column: of the labels, what to tell apart, such as a disease.
      root: folder of the images, for a gallery of right and wrong ones; none unless told.
      title: of the page.
      against: predictions.csv of other models for the same images, or names of columns of --scores that hold
        their scores, to compare with.
      arrivals_per_hour: radiographs that come; above 0, arrivals are simulated too.
      on_duty: how many readers read then.
      read_minutes: how long one radiograph takes to read then.
      options: of the evaluation.

    """
    banner()

    from offsites_jax.projects.chest_xray.evaluation.page import write_evaluation
    from offsites_jax.projects.chest_xray.evaluation.study import evaluate as study
    from offsites_jax.projects.chest_xray.tables.scored import join, read_rows
    from offsites_jax.projects.chest_xray.worklist.arrivals import Traffic

    predictions = read_rows(scores)
    truth = _labelled_by(label_column, read_rows(labels) if labels else predictions)
    parts = _parts(truth, tuning_split, test_split)
    test = join(predictions, parts["test"])
    tuning = join(predictions, parts["tuning"]) if parts["tuning"] else None
    points = _given(thresholds, has_tuning=tuning is not None)
    read = read_rows(readers) if readers else ()
    others = {name: join(_scored_by(name, predictions), parts["test"]) for name in against}
    if arrivals_per_hour:
        traffic = Traffic(arrivals_per_hour, read_minutes, on_duty)
        options = dataclasses.replace(options, traffic=traffic)
    found = study(test, tuning, options, points=points, readers=read, against=others)
    write_evaluation(found, output, title, _loader(root))
    low, high = found.bootstrap.interval()
    print(
        f"{len(test)} test images: area under the curve {found.auc.value:.4f} ({low:.4f} to {high:.4f} over "
        "draws of patients)"
    )
    for one in found.comparisons:
        low, high = one.draws.difference()
        p = "undefined" if one.difference.p is None else f"{one.difference.p:.4g}"
        print(
            f"against {one.name}: difference {one.difference.value:+.4f} ({low:+.4f} to {high:+.4f} over "
            f"draws of patients; p {p} by DeLong)"
        )
    for warning in found.warnings:
        print(f"note: {warning}")
    print(f"{output}/report.html")


def prioritize(
    scores: str, output: str = "worklist.csv", thresholds: str = "", specialist: float = 0.0
) -> None:
    """Writes the order in which cases are to be read, and the lane of each.

    Args:
      scores: predictions.csv.
      output: the table to write.
      thresholds: operating points to make lanes from: expedited, routine, low-risk batch; without them lanes
        start at scores of 0.9, 0.5 and 0.1.
      specialist: with thresholds: lowest score for a lane of its own; 0 for none.

    """
    from collections import Counter

    banner()

    from offsites_jax.projects.chest_xray.evaluation.page import write_worklist
    from offsites_jax.projects.chest_xray.tables.scored import read_rows
    from offsites_jax.projects.chest_xray.worklist import lanes as queue

    lanes: Sequence[queue.Lane] = queue.DEFAULT_LANES
    if thresholds:
        from offsites_jax.projects.chest_xray.inference.scoring import read_points

        lanes = queue.lanes_of(read_points(thresholds), specialist or None)
    entries = queue.prioritize(read_rows(scores), lanes)
    write_worklist(entries, output)
    counts = Counter(entry.lane for entry in entries)
    print(
        f"{output}: {len(entries)} cases: {', '.join(f'{number} {lane}' for lane, number in counts.items())}"
    )


def _parts(truth: Any, tuning_split: str, test_split: str) -> dict[str, list[Any]]:
    """Rows to test on and to tune on; all are tested on where no column says."""
    column = next((name for name in (truth[0] if truth else {}) if name.strip().lower() == "split"), None)
    if column is None:
        return {"test": list(truth), "tuning": []}
    by: dict[str, list[Any]] = {}
    for row in truth:
        by.setdefault(row[column].strip().lower(), []).append(row)
    if test_split.lower() not in by:
        raise UserError(f"--test-split: no row with split {test_split!r}; there are {', '.join(sorted(by))}")
    if tuning_split and tuning_split.lower() not in by:
        raise UserError(
            f"--tuning-split: no row with split {tuning_split!r}; there are {', '.join(sorted(by))}"
        )
    own = tuning_split.lower() or next((name for name in TUNING if name in by), "")
    return {"test": by[test_split.lower()], "tuning": by.get(own, [])}


def _labelled_by(column: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows whose label is in another column."""
    from offsites_jax.projects.chest_xray.tables.scored import column_name

    if column == "label":
        return rows
    own = column_name(rows, column)
    others = [name for name in rows[0] if name.strip().lower() != "label"]
    return [{name: row[name] for name in others} | {"label": row[own]} for row in rows]


def _scored_by(name: str, predictions: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The table of another model, or the rows of this one scored by another column.

    Raises:
      UserError: neither a file nor a column.

    """
    from offsites_jax.projects.chest_xray.tables.scored import read_rows

    if epath.Path(name).exists():
        return read_rows(name)
    if name not in predictions[0]:
        raise UserError(
            f"--against: {name!r} is neither a file nor a column of --scores, which has "
            f"{', '.join(predictions[0])}"
        )
    taken = {"score", "logit"}
    return [
        {key: cell for key, cell in row.items() if key.strip().lower() not in taken} | {"score": row[name]}
        for row in predictions
    ]


def _given(file: str, *, has_tuning: bool) -> dict[str, Any] | None:
    """Operating points of a file; fixed ones where there is nothing to choose them on."""
    if file:
        from offsites_jax.projects.chest_xray.inference.scoring import read_points

        return read_points(file)
    if has_tuning:
        return None
    from offsites_jax.projects.chest_xray.accuracy.operating import OperatingPoint

    print(f"note: no tuning cases and no --thresholds: the threshold is fixed at {FIXED}")
    return {"fixed": OperatingPoint("high_sensitivity", float("nan"), FIXED, float("nan"), float("nan"))}


def _loader(root: str) -> Any:
    """Reads images of a gallery, below a folder."""
    if not root:
        return None
    from offsites_jax.projects.chest_xray.intake import radiograph
    from offsites_jax.projects.chest_xray.tables.archives import safe_path

    def load(image: str) -> Any:
        return radiograph.to_uint8(radiograph.read(epath.Path(root) / safe_path(image)).pixels)

    return load
