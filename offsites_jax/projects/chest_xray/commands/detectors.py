"""What people do with a detector: train it, choose its thresholds, score files, look at why."""

import json
from typing import Any, Literal

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.commands.shared import (
    banner,
    check_all_read,
    pairs,
    start,
    write,
)
from offsites_jax.projects.chest_xray.notice import BANNER
from offsites_jax.train.steps import step_of


def train(experiment: Positional[str], workdir: str, overrides: tuple[str, ...] = ()) -> None:
    """Trains an experiment, as `offsites train` does.

    Args:
      experiment: the experiment file.
      workdir: folder of the run.
      overrides: keys of the experiment to change, as train.steps=100.

    """
    from offsites_jax.train.config import load_experiment

    found = load_experiment(experiment, pairs(overrides))
    start(found.mesh.cpu_devices)

    from offsites_jax.train.loop import train as run

    for name, value in run(found, workdir).scores.items():
        print(f"{name:<32} {value:.6g}")


def thresholds(
    workdir: tuple[str, ...],
    split: str = "tune",
    manifest: str = "",
    sensitivity: float = 0.95,
    specificity: float = 0.95,
    output: str = "",
    step: str = "best",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Chooses both operating points on tuning cases and keeps them beside the run, for `predict`.

    Args:
      workdir: folder of one run, or of several that are averaged.
      split: of the manifest; one that is neither trained on nor tested on.
      manifest: of the tuning cases; that of the experiment unless told.
      sensitivity: of the high-sensitivity point, at least.
      specificity: of the high-specificity point, at least.
      output: file to write; operating_points.json in the folder of a single run unless told.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    import dataclasses

    import numpy as np

    start()

    from offsites_jax.projects.chest_xray.accuracy.operating import operating_point
    from offsites_jax.projects.chest_xray.inference import scoring
    from offsites_jax.projects.chest_xray.intake.inputs import find_inputs

    if not output and len(workdir) > 1:
        raise UserError("--output: missing; several runs share no folder to keep their operating points in")
    models = scoring.open_models(workdir, step_of(step), params)
    scored = list(scoring.score(models, find_inputs((manifest or models[0].experiment.data.path,), split)))
    kept = [one for one in scored if one.score is not None and one.reading.source.case.label is not None]
    labels = np.array([bool(one.reading.source.case.label) for one in kept])
    scores = np.array([one.score for one in kept], np.float64)
    points = {
        "high_sensitivity": operating_point(labels, scores, "high_sensitivity", sensitivity),
        "high_specificity": operating_point(labels, scores, "high_specificity", specificity),
    }
    about = {"split": split, "cases": len(kept), "note": BANNER}
    text = json.dumps({"points": {k: dataclasses.asdict(v) for k, v in points.items()}, **about}, indent=2)
    file = output or f"{workdir[0]}/{scoring.POINTS}"
    write(file, f"{text}\n".encode())
    for kind, point in points.items():
        print(
            f"{kind}: {point.threshold:.6g} (sensitivity {point.sensitivity:.3f}, specificity "
            f"{point.specificity:.3f} on {len(kept)} tuning cases)"
        )
    print(file)


def predict(
    inputs: Positional[tuple[str, ...]],
    workdir: tuple[str, ...],
    output: str = "predictions.csv",
    split: str = "",
    target: str = "",
    thresholds: str = "",
    key: str = "",
    step: str = "best",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Scores radiographs into predictions.csv; several runs are averaged by their probabilities.

    A file that cannot be read keeps a row with status error and no score, and the command ends with code 3.

    Args:
      inputs: DICOM or image files, folders with all that is below them, or manifests.
      workdir: folder of one run, or of several.
      output: the table to write.
      split: of manifests, score only this one.
      target: the output to score by; the first unless told.
      thresholds: operating points for the flags; operating_points.json of a single run unless told.
      key: file with the secret that makes pseudonyms of patient numbers in DICOM files; without one, or the
        variable OFFSITES_IDENTITY_KEY, only patients of manifests are named.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    import os

    start()

    from offsites_jax.projects.chest_xray.inference import scoring
    from offsites_jax.projects.chest_xray.intake import identity
    from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    secret = identity.read_key(key or None) if key or identity.KEY_VARIABLE in os.environ else None
    found = find_inputs(inputs, split)
    points = _points(workdir, thresholds)
    models = scoring.open_models(workdir, step_of(step), params)
    rows = [scoring.row_of(one, points, secret) for one in scoring.score(models, found, target)]
    write_table(output, scoring.COLUMNS, rows)
    errors = {str(row["image"]): str(row["message"]) for row in rows if row["status"] == "error"}
    flagged = "" if points else "; no flags without operating points: see `offsites chest_xray thresholds`"
    print(f"{output}: {len(rows) - len(errors)} of {len(rows)} radiographs scored{flagged}")
    check_all_read(errors, len(rows))


def bundle(exported: Positional[str], thresholds: str) -> None:
    """Puts operating points and the steps from file to input into an export, under its digests.

    Args:
      exported: folder of `offsites export`.
      thresholds: operating_points.json of the run.

    """
    banner()

    from offsites_jax.projects.chest_xray.inference.bundle import add_to_export

    add_to_export(exported, thresholds, BANNER)
    print(f"{exported}: operating_points.json and preprocessing.json added")


def explain(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str,
    split: str = "",
    target: str = "",
    level: float = 0.5,
    threshold: float = 0.5,
    layer: str = "",
    step: str = "best",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Outlines in red what speaks for the finding: cam/<image>.png, and cam.csv with the figures.

    A column `box` of a manifest (left top width height, in pixels) is drawn in yellow.

    Args:
      inputs: DICOM or image files, folders with all that is below them, or manifests.
      workdir: folder of the run.
      output: folder for cam/ and cam.csv.
      split: of manifests, explain only this one.
      target: the output to explain; the first unless told.
      level: share of the map's maximum at which the outline runs.
      threshold: images that score less get no outline.
      layer: part of the network to explain by Grad-CAM; the class-activation map of the last one unless told.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    start()

    from offsites_jax.projects.chest_xray.inference import explanations, scoring
    from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    if not 0 < level <= 1:
        raise UserError(f"--level: {level}; give a share of the maximum, above 0 and up to 1")
    found = find_inputs(inputs, split)
    model = scoring.open_models((workdir,), step_of(step), params)[0]
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for one in explanations.explain(model, found, target, level, threshold, layer):
        if one.error:
            errors[one.image] = one.error
        else:
            write(f"{output}/cam/{one.file}", one.png)
        rows.append(one.row())
    write_table(epath.Path(output) / "cam.csv", explanations.COLUMNS, rows)
    hits = [row["hit"] for row in rows if row["hit"] != ""]
    told = f"; strongest inside the box in {sum(hits)} of {len(hits)}" if hits else ""
    print(f"{output}/cam: {len(rows) - len(errors)} pictures{told}")
    check_all_read(errors, len(found))


def _points(workdirs: tuple[str, ...], file: str) -> dict[str, Any]:
    """Operating points of a file, or of the folder of a single run; none where neither is there."""
    from offsites_jax.projects.chest_xray.inference import scoring

    own = epath.Path(workdirs[0]) / scoring.POINTS if len(workdirs) == 1 else None
    if not file and (own is None or not own.exists()):
        return {}
    return dict(scoring.read_points(file or str(own)))
