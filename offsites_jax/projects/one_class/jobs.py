"""What people do with a one-class representation beyond training and evaluating it."""

import json
import os
import time
from typing import Any, Literal

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import UserError

ScorerChoice = Literal["gde", "kde", "knn", "ocsvm", "ocsvm_linear", "gmm", "logit", "dscore"]
ShapeChoice = Literal["digit", "square", "ellipse", "heart"]
LayerChoice = Literal["pooled", "embeds", "logits"]


def fit(
    folder: Positional[str],
    workdir: str,
    image_size: int = 128,
    window: int = 32,
    stride: int = 4,
    aligned: bool = False,
    steps: int = 400,
    batch_size: int = 32,
    width: float = 0.25,
    jitter: float = 0.3,
    held_out: float = 0.2,
    quantile: float = 0.99,
    scorer: ScorerChoice = "gde",
    seed: int = 0,
    skip_bad: bool = False,
) -> None:
    """From photos of good parts to a scorer with a threshold: trains 3-way CutPaste, fits, writes a bundle.

    Minutes on two cores. Run it again to go on after a kill. With `test/` in the folder its figures are
    printed as well.

    Args:
      folder: good photos, or a folder with `train/good` and perhaps `test/<kind>` and `ground_truth/<kind>`.
      workdir: folder of the run; `bundle` in it is what `score` opens.
      image_size: side that photos are brought to, in pixels; small defects need more.
      window: side in pixels of the windows that are learned and scored; 0 for whole photos.
      stride: pixels from one scored window to the next.
      aligned: parts always lie the same way: what is normal depends on the place.
      steps: of training.
      batch_size: photos a step.
      width: of the network; 1 has 64 to 512 channels.
      jitter: of colours; less where colour tells good from bad.
      held_out: share of the good photos that sets the threshold.
      quantile: of their scores that is the threshold.
      scorer: how normal features are described; others than gde need --stride 0, for whole photos.
      seed: of the training.
      skip_bad: leave files out that cannot be read, instead of stopping at the first.

    """
    _start()

    from offsites_jax.projects.one_class.fitting import fit_photos
    from offsites_jax.projects.one_class.photo_recipe import PhotoSettings
    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage import SecondStage

    begin = time.monotonic()
    settings = PhotoSettings(image_size, window, steps, batch_size, width, jitter, held_out, seed)
    stage = SecondStage(ScorerSettings(scorer), stride=stride, aligned=aligned, quantile=quantile)
    done = fit_photos(folder, workdir, settings, stage, skip_bad=skip_bad)
    _print_all(done)
    print(f"{workdir}: ready in {time.monotonic() - begin:.0f} s; score images with")
    print(f"  offsites one_class score {workdir} IMAGES --output OUT")


def score(
    workdir: Positional[str],
    images: Positional[tuple[str, ...]],
    output: str,
    skip_bad: bool = False,
) -> None:
    """Scores images: scores.csv (path, score, flag, threshold), heatmaps/ and report.html.

    Args:
      workdir: folder of a fit, or a bundle.
      images: files, or folders of them; if one holds a folder `good` beside others, the report has an ROC.
      output: folder to write to.
      skip_bad: leave files out that cannot be read, and say so, instead of stopping at the first.

    """
    _start()

    from offsites_jax.projects.one_class.bundle import open_bundle
    from offsites_jax.projects.one_class.scoring import find_files, read_files, score_files

    files = find_files(images)
    bundle = open_bundle(workdir)
    read = read_files(bundle, files, skip_bad=skip_bad)
    flagged = score_files(bundle, read, output, source=", ".join(images))
    left_out = f", {len(read.bad)} left out" if read.bad else ""
    print(f"{output}: {len(read.files)} images scored, {flagged} flagged{left_out}")


def explain(
    workdir: Positional[str], images: Positional[tuple[str, ...]], output: str, steps: int = 64
) -> None:
    """Says why images have their scores: integrated gradients, GradCAM and heat map, side by side.

    Args:
      workdir: folder of a fit, or a bundle.
      images: files, or folders of them.
      output: folder for `<name>.png` and `explanations.json`.
      steps: of the integral; more make the sum of all attributions closer to the score.

    """
    _start()

    from offsites_jax.projects.one_class.bundle import open_bundle
    from offsites_jax.projects.one_class.explaining import explain_files
    from offsites_jax.projects.one_class.scoring import find_files, read_files

    files = find_files(images)
    bundle = open_bundle(workdir)
    read = read_files(bundle, files, skip_bad=False)
    for row in explain_files(bundle, read, output, steps=steps):
        print(json.dumps(row))


def fit_scorer(
    workdir: Positional[str],
    output: str = "",
    scorer: ScorerChoice = "gde",
    layer: LayerChoice = "pooled",
    stride: int = 4,
    aligned: bool = False,
    quantile: float = 0.99,
    step: str = "latest",
    normal: str = "train",
    held_out: str = "validation",
) -> None:
    """Fits a scorer to a representation that is trained already, and writes a bundle; nothing is trained.

    Args:
      workdir: folder of any training of this project.
      output: folder for the bundle; `bundle` in the workdir unless told.
      scorer: how normal features are described.
      layer: what it reads: pooled features, the head's output, or logits.
      stride: between windows in pixels, for networks trained on windows; 0 scores whole images.
      aligned: objects always lie the same way: a Gaussian for each place of a window.
      quantile: of the scores of held-out normal images that is the threshold.
      step: of the checkpoint: latest, best or a number.
      normal: split to fit to.
      held_out: split whose normal images set the threshold; `validation` needs data.held_out.

    """
    _start()

    from offsites_jax.projects.one_class.bundle import FOLDER, save
    from offsites_jax.projects.one_class.data import create_pipeline
    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage import SecondStage, fit_bundle, open_model

    model = open_model(workdir, _step(step))
    stage = SecondStage(ScorerSettings(scorer), layer, stride, aligned, quantile)
    splits = [create_pipeline(model.experiment, split, train=False) for split in (normal, held_out)]
    bundle = fit_bundle(model, stage, *splits)
    folder = output or os.path.join(workdir, FOLDER)
    save(bundle, folder)
    print(f"{folder}: {bundle.scorer.about}; threshold {bundle.threshold.value:.6g}")


def rescore(
    workdir: Positional[str],
    scorers: tuple[ScorerChoice, ...] = ("gde", "kde", "knn", "ocsvm"),
    layer: LayerChoice = "pooled",
    split: str = "test",
    step: str = "latest",
    output: str = "",
) -> None:
    """Compares scorers on a representation that is trained already: figures of each on a split.

    Args:
      workdir: folder of any training of this project.
      scorers: which.
      layer: what they read: pooled features, the head's output, or logits.
      split: labelled images.
      step: of the checkpoint: latest, best or a number.
      output: CSV file to write the table to as well.

    """
    _start()

    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage import open_model, table_of_scorers
    from offsites_jax.train.media import encode_table

    settings = [ScorerSettings(name) for name in scorers]
    rows = table_of_scorers(open_model(workdir, _step(step)), settings, layer, split)
    for row in rows:
        print(json.dumps(row))
    if output:
        _write(output, encode_table(rows).content)


def localize(
    workdir: Positional[str],
    output: str,
    split: str = "test",
    stride: int = 4,
    aligned: bool = False,
    normalize_borders: bool = False,
    step: str = "latest",
) -> None:
    """Compares heat maps with the masks of a split: pixel AUC, and a report with ground truth and GradCAM.

    Args:
      workdir: folder of any training of this project.
      output: folder for report.html and heatmaps/.
      split: images with masks.
      stride: between windows in pixels.
      aligned: objects always lie the same way: a Gaussian for each place of a window.
      normalize_borders: take out that pixels near the rim are in fewer windows.
      step: of the checkpoint: latest, best or a number.

    """
    _start()

    from offsites_jax.projects.one_class.localizing import localize as find
    from offsites_jax.projects.one_class.localizing import write_localized
    from offsites_jax.projects.one_class.second_stage import open_model

    found = find(
        open_model(workdir, _step(step)),
        split,
        stride=stride,
        aligned=aligned,
        normalize_borders=normalize_borders,
    )
    write_localized(found, output, source=split)
    figures = found.figures
    auc = figures.undefined or f"{figures.auc:.6g}"
    print(f"pixel AUC {auc} at {figures.width} x {figures.height} pixels, {figures.images} images")


def protocol(
    experiment: Positional[str],
    workdir: str,
    categories: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    scorers: tuple[ScorerChoice, ...] = ("gde",),
    raw_pixels: bool = False,
    ensemble: bool = True,
    overrides: tuple[str, ...] = (),
) -> None:
    """Trains an experiment with every class and seed, and writes the table: table.md, table.csv, table.json.

    Run it again to go on after a kill: finished cells are not run again.

    Args:
      experiment: the experiment file; what is normal is set in turn.
      workdir: folder of all cells and of the table.
      categories: what is normal; all of the data set unless told.
      seeds: each category is trained with each.
      scorers: figures are `auc` of the first, and `auc_<name>` of the others.
      raw_pixels: also what the scorers make of raw pixels, the floor.
      ensemble: also the mean score of all seeds.
      overrides: keys of every cell to change, as train.steps=100.

    """
    from offsites_jax.projects.one_class.protocol_run import Plan, run

    plan = Plan(experiment, workdir, categories, seeds, scorers, raw_pixels, ensemble, _pairs(overrides))
    _start(plan.experiment.mesh.cpu_devices, cache=epath.Path(workdir) / "compile_cache")
    print(run(plan))


def synthesize(
    normal: Positional[str],
    output: str,
    shapes: tuple[ShapeChoice, ...] = ("digit", "square", "ellipse", "heart"),
    diameter: tuple[float, float] = (0.1, 0.3),
    photos: float = 0.5,
    held_out: float = 0.2,
    seed: int = 0,
) -> None:
    """Makes a data set with masks out of good photos: shapes drawn on those that are tested.

    Args:
      normal: a folder with `train/good` and `test/good`, or of good photos only.
      output: folder to make.
      shapes: each test photo is drawn on once with each.
      diameter: smallest and largest, as shares of the photo's short side.
      photos: share of the shapes filled with a piece of a photograph instead of one colour.
      held_out: share of the photos that are tested on, where they are not divided yet.
      seed: of places, sizes, angles and fillings.

    """
    from offsites_jax.projects.one_class.synthetic import Drawing, write_defects

    counts = write_defects(normal, output, Drawing(shapes, diameter, photos, seed), held_out=held_out)
    for name, count in counts.items():
        print(f"{name:<20} {count}")


def export(workdir: Positional[str], output: str, batch: int = 1) -> None:
    """Copies a bundle to a folder, with its scores as StableHLO beside it: score.stablehlo.

    The function takes uint8 images [batch, side, side, 3] and gives float32 scores [batch], on CPU, TPU and
    CUDA; it is compared with the bundle before anything is written.

    Args:
      workdir: folder of a fit, or a bundle.
      output: folder to make.
      batch: images at a time.

    """
    _start()

    from offsites_jax.projects.one_class.bundle import open_bundle
    from offsites_jax.projects.one_class.shipping import ship

    difference = ship(open_bundle(workdir), output, batch)
    print(f"{output}: written; {difference:.3g} off the live model")


def _start(cpu_devices: int = 0, cache: epath.PathLike | None = None) -> None:
    from offsites_jax.parallel.start import start

    start(cpu_devices, cache=cache)


def _step(text: str) -> Any:
    """A step number, or "latest" or "best"."""
    if text in ("latest", "best"):
        return text
    if not text.isdigit():
        raise UserError(f"--step: {text!r} is neither a number nor latest nor best")
    return int(text)


def _pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    """`key=value` as {key: value}."""
    found = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--overrides: {text!r} is not like train.steps=100")
        found[key] = value
    return found


def _print_all(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        print(f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}")


def _write(file: epath.PathLike, content: bytes) -> None:
    from offsites_jax.train.writers import write_atomically

    write_atomically(epath.Path(file), content)


JOBS = {
    "fit": fit,
    "score": score,
    "explain": explain,
    "fit_scorer": fit_scorer,
    "rescore": rescore,
    "localize": localize,
    "protocol": protocol,
    "synthesize": synthesize,
    "export": export,
}
