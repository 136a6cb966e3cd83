"""From a folder of photos to scores, and to files for elsewhere."""

import time
from typing import Literal

from tyro.conf import Positional

from offsites_jax.projects.one_class.commands.shared import ScorerChoice, print_figures, start

ShapeChoice = Literal["digit", "square", "ellipse", "heart"]


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
    start()

    from offsites_jax.projects.one_class.recipes.photos import PhotoSettings
    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage.fit import SecondStage
    from offsites_jax.projects.one_class.second_stage.photos import fit_photos

    begin = time.monotonic()
    settings = PhotoSettings(image_size, window, steps, batch_size, width, jitter, held_out, seed)
    stage = SecondStage(ScorerSettings(scorer), stride=stride, aligned=aligned, quantile=quantile)
    done = fit_photos(folder, workdir, settings, stage, skip_bad=skip_bad)
    print_figures(done)
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
    start()

    from offsites_jax.projects.one_class.report.scoring import find_files, read_files, score_files
    from offsites_jax.projects.one_class.second_stage.bundle_files import open_bundle

    files = find_files(images)
    bundle = open_bundle(workdir)
    read = read_files(bundle, files, skip_bad=skip_bad)
    flagged = score_files(bundle, read, output, source=", ".join(images))
    left_out = f", {len(read.bad)} left out" if read.bad else ""
    print(f"{output}: {len(read.files)} images scored, {flagged} flagged{left_out}")


def export(workdir: Positional[str], output: str, batch: int = 1) -> None:
    """Copies a bundle to a folder, with its scores as StableHLO beside it: score.stablehlo.

    The function takes uint8 images [batch, side, side, 3] and gives float32 scores [batch], on CPU, TPU and
    CUDA; it is compared with the bundle before anything is written.

    Args:
      workdir: folder of a fit, or a bundle.
      output: folder to make.
      batch: images at a time.

    """
    start()

    from offsites_jax.projects.one_class.second_stage.bundle_files import open_bundle
    from offsites_jax.projects.one_class.second_stage.shipping import ship

    difference = ship(open_bundle(workdir), output, batch)
    print(f"{output}: written; {difference:.3g} off the live model")


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
    from offsites_jax.projects.one_class.views.synthetic import Drawing, write_defects

    counts = write_defects(normal, output, Drawing(shapes, diameter, photos, seed), held_out=held_out)
    for name, count in counts.items():
        print(f"{name:<20} {count}")
