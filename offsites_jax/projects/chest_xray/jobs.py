"""What people do with a detector beyond training it: intake, scores, pictures, reports, work lists."""

import json
from typing import Any, Literal

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray import evaluation_jobs, report_jobs
from offsites_jax.projects.chest_xray.report_jobs import BANNER


def train(experiment: Positional[str], workdir: str, overrides: tuple[str, ...] = ()) -> None:
    """Trains an experiment, as `offsites train` does.

    Args:
      experiment: the experiment file.
      workdir: folder of the run.
      overrides: keys of the experiment to change, as train.steps=100.

    """
    from offsites_jax.train.config import load_experiment

    found = load_experiment(experiment, _pairs(overrides))
    _start(found.mesh.cpu_devices)

    from offsites_jax.train.loop import train as run

    for name, value in run(found, workdir).scores.items():
        print(f"{name:<32} {value:.6g}")


def synthesize(
    output: str, patients: int = 600, seed: int = 0, height: int = 320, outlines: str = ""
) -> None:
    """Draws a made-up archive in real lung outlines: 12-bit DICOM files and manifest.csv.

    Args:
      output: folder to write.
      patients: how many; each has 2 to 4 images, half of them abnormal.
      seed: gives the same archive again.
      height: of the images, in pixels.
      outlines: zip of lung masks; that of the installed torchxrayvision unless told.

    """
    _banner()

    from offsites_jax.projects.chest_xray.synthetic import synthesize as draw

    cases = draw(output, patients, seed, height, outlines)
    print(f"{output}: {len(cases)} drawn radiographs of {patients} made-up patients; nothing clinical")


def convert(
    inputs: Positional[tuple[str, ...]],
    output: str,
    key: str = "",
    site: str = "",
    size: int = 1024,
    crop_borders: bool = False,
    allow: tuple[Literal["processing", "secondary"], ...] = (),
) -> None:
    """Takes in an archive: de-identified 16-bit PNGs and a manifest with pseudonyms for patients.

    Of the header only view, sex and age (at most 90) are kept. Files that cannot be taken in are listed in
    failed.csv, whose names are those of the archive, and the command ends with code 3.

    Args:
      inputs: DICOM or image files, folders of them, or manifests, whose splits and labels are kept.
      output: folder to write.
      key: file with the secret of the pseudonyms; the variable OFFSITES_IDENTITY_KEY unless told.
      site: where the patients come from.
      size: side of the square that is kept, in pixels; 0 keeps the pictures as they are.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: objects to accept beside CR and DX for presentation.

    """
    _banner()

    from offsites_jax.projects.chest_xray.identity import read_key
    from offsites_jax.projects.chest_xray.inputs import find_inputs
    from offsites_jax.projects.chest_xray.intake import Intake, failures
    from offsites_jax.projects.chest_xray.intake import convert as take_in
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    if size and size < 32:
        raise UserError(f"--size: {size}; use 0, or at least 32 pixels")
    found = find_inputs(inputs)
    settings = Intake(read_key(key or None), size, crop_borders, allow, site)
    errors = take_in(found, output, settings)
    if errors:
        write_table(epath.Path(output) / "failed.csv", ("image", "message"), failures(errors))
    print(f"{output}: {len(found) - len(errors)} of {len(found)} files taken in")
    _check_all_read(errors, len(found))


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

    _start()

    from offsites_jax.projects.chest_xray import identity, inference
    from offsites_jax.projects.chest_xray.inputs import find_inputs
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    secret = identity.read_key(key or None) if key or identity.KEY_VARIABLE in os.environ else None
    found = find_inputs(inputs, split)
    points = _points(workdir, thresholds)
    models = inference.open_models(workdir, _step(step), params)
    rows = [inference.row_of(one, points, secret) for one in inference.score(models, found, target)]
    write_table(output, inference.COLUMNS, rows)
    errors = {str(row["image"]): str(row["message"]) for row in rows if row["status"] == "error"}
    flagged = "" if points else "; no flags without operating points: see `offsites chest_xray thresholds`"
    print(f"{output}: {len(rows) - len(errors)} of {len(rows)} radiographs scored{flagged}")
    _check_all_read(errors, len(rows))


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

    _start()

    from offsites_jax.projects.chest_xray import inference
    from offsites_jax.projects.chest_xray.inputs import find_inputs
    from offsites_jax.projects.chest_xray.operating import operating_point

    if not output and len(workdir) > 1:
        raise UserError("--output: missing; several runs share no folder to keep their operating points in")
    models = inference.open_models(workdir, _step(step), params)
    scored = list(inference.score(models, find_inputs((manifest or models[0].experiment.data.path,), split)))
    kept = [one for one in scored if one.score is not None and one.reading.source.case.label is not None]
    labels = np.array([bool(one.reading.source.case.label) for one in kept])
    scores = np.array([one.score for one in kept], np.float64)
    points = {
        "high_sensitivity": operating_point(labels, scores, "high_sensitivity", sensitivity),
        "high_specificity": operating_point(labels, scores, "high_specificity", specificity),
    }
    about = {"split": split, "cases": len(kept), "note": BANNER}
    text = json.dumps({"points": {k: dataclasses.asdict(v) for k, v in points.items()}, **about}, indent=2)
    file = output or f"{workdir[0]}/{inference.POINTS}"
    _write(file, f"{text}\n".encode())
    for kind, point in points.items():
        print(
            f"{kind}: {point.threshold:.6g} (sensitivity {point.sensitivity:.3f}, specificity "
            f"{point.specificity:.3f} on {len(kept)} tuning cases)"
        )
    print(file)


def explain(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str,
    split: str = "",
    target: str = "",
    level: float = 0.5,
    threshold: float = 0.5,
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
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    _start()

    from offsites_jax.projects.chest_xray import explanations, inference
    from offsites_jax.projects.chest_xray.inputs import find_inputs
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    if not 0 < level <= 1:
        raise UserError(f"--level: {level}; give a share of the maximum, above 0 and up to 1")
    found = find_inputs(inputs, split)
    model = inference.open_models((workdir,), _step(step), params)[0]
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for one in explanations.explain(model, found, target, level, threshold):
        if one.error:
            errors[one.image] = one.error
        else:
            _write(f"{output}/cam/{one.file}", one.png)
        rows.append(one.row())
    write_table(epath.Path(output) / "cam.csv", explanations.COLUMNS, rows)
    hits = [row["hit"] for row in rows if row["hit"] != ""]
    told = f"; strongest inside the box in {sum(hits)} of {len(hits)}" if hits else ""
    print(f"{output}/cam: {len(rows) - len(errors)} pictures{told}")
    _check_all_read(errors, len(found))


def transfer(
    experiment: Positional[str],
    starts: tuple[str, ...],
    output: str,
    mode: Literal["probe", "finetune"] = "probe",
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 1.0),
    seeds: int = 5,
    strength: float = 0.01,
    overrides: tuple[str, ...] = (),
) -> None:
    """Compares starts for another task by how much they learn from few patients.

    Writes transfer.csv (every training), curve.png, and for two or more starts compare.csv, paired by seed.

    Args:
      experiment: experiment file of the other task; its splits `data.train_split` and `test` are used.
      starts: NAME=WORKDIR, NAME=FILE.safetensors, or `random`; later ones are compared with the first.
      output: folder to write.
      mode: probe fits a linear layer to fixed features; finetune trains the experiment every time.
      fractions: shares of the training patients.
      seeds: draws of patients for each share.
      strength: of a probe: inverse of the penalty on its weights.
      overrides: keys of the experiment to change, as data.path=tb.

    """
    from offsites_jax.train.config import load_experiment

    found = load_experiment(experiment, _pairs(overrides))
    _start(found.mesh.cpu_devices)

    import dataclasses

    from offsites_jax.projects.chest_xray import transfer as curves
    from offsites_jax.projects.chest_xray import transfer_runs
    from offsites_jax.train.media import encode_figure, encode_table

    places = transfer_runs.parse_starts(starts)
    if not places or seeds < 1:
        raise UserError(
            f"--starts {list(starts)}, --seeds {seeds}: give one start or more, and one seed or more"
        )
    if mode == "finetune":
        points = transfer_runs.fine_tune(found.raw, places, fractions, range(seeds), f"{output}/runs")
    else:
        splits = (found.data.train_split, "test")
        features = {name: transfer_runs.features_of(found, path, splits) for name, path in places.items()}
        pairs = {name: (train, test) for name, (train, test) in features.items()}
        points = curves.learning_curve(pairs, fractions, range(seeds), strength)
    _write(f"{output}/transfer.csv", encode_table([dataclasses.asdict(point) for point in points]).content)
    _write(f"{output}/curve.png", encode_figure(curves.curve_figure(points)).content)
    first, *others = places
    for other in others:
        rows = curves.compare(points, first, other)
        _write(f"{output}/compare_{first}_{other}.csv", encode_table(rows).content)
        for row in rows:
            print(
                f"{row['fraction']:>6.0%} ({row['patients']} patients): {first} {row[first]:.3f}, {other} "
                f"{row[other]:.3f}, difference {row['difference']:+.3f} +- {row['standard_error']:.3f}"
            )
    print(f"{output}: {len(points)} trainings")


def _points(workdirs: tuple[str, ...], file: str) -> dict[str, Any]:
    """Operating points of a file, or of the folder of a single run; none where neither is there."""
    from offsites_jax.projects.chest_xray import inference

    own = epath.Path(workdirs[0]) / inference.POINTS if len(workdirs) == 1 else None
    if not file and (own is None or not own.exists()):
        return {}
    return dict(inference.read_points(file or str(own)))


def _start(cpu_devices: int = 0) -> None:
    _banner()

    from offsites_jax.parallel.start import start

    start(cpu_devices)


def _banner() -> None:
    print(BANNER)


def _pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    wrong = next((text for text in overrides if "=" not in text), "")
    if wrong:
        raise UserError(f"--overrides: {wrong!r}; write KEY=VALUE, as train.steps=100")
    return dict(text.removeprefix("--config.").split("=", 1) for text in overrides)


def _step(text: str) -> Any:
    """A step number, or "latest" or "best"."""
    if text in ("latest", "best"):
        return text
    if not text.isdigit():
        raise UserError(f"--step: {text!r} is neither a number nor latest nor best")
    return int(text)


def _check_all_read(errors: dict[str, str], count: int) -> None:
    if errors:
        name, reason = next(iter(errors.items()))
        raise DamagedDataError(
            f"{len(errors)} of {count} files could not be read; the first, {name}: {reason}"
        )


def _write(file: str, content: bytes) -> None:
    from offsites_jax.train.writers import write_atomically

    write_atomically(epath.Path(file), content)


JOBS = {
    **report_jobs.JOBS,
    "synthesize": synthesize,
    "convert": convert,
    "train": train,
    "thresholds": thresholds,
    "predict": predict,
    "explain": explain,
    **evaluation_jobs.JOBS,
    "transfer": transfer,
}
