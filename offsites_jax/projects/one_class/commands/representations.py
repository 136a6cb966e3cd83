"""With a representation that is trained: other scorers, where images are anomalous, and why."""

import json
import os

from tyro.conf import Positional

from offsites_jax.projects.one_class.commands.shared import LayerChoice, ScorerChoice, start
from offsites_jax.train.steps import step_of


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
      layer: what it reads: pooled features, the head's output, logits, or a stage's mean.
      stride: between windows in pixels, for networks trained on windows; 0 scores whole images.
      aligned: objects always lie the same way: a Gaussian for each place of a window.
      quantile: of the scores of held-out normal images that is the threshold.
      step: of the checkpoint: latest, best or a number.
      normal: split to fit to.
      held_out: split whose normal images set the threshold; `validation` needs data.held_out.

    """
    start()

    from offsites_jax.projects.one_class.data import create_pipeline
    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage.bundle_files import FOLDER, save
    from offsites_jax.projects.one_class.second_stage.fit import SecondStage, fit_bundle, open_model

    model = open_model(workdir, step_of(step))
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
      layer: what they read: pooled features, the head's output, logits, or a stage's mean.
      split: labelled images.
      step: of the checkpoint: latest, best or a number.
      output: CSV file to write the table to as well.

    """
    start()

    from offsites_jax.projects.one_class.scorers import ScorerSettings
    from offsites_jax.projects.one_class.second_stage.fit import open_model, table_of_scorers
    from offsites_jax.projects.one_class.stored import write_file
    from offsites_jax.train.media import encode_table

    settings = [ScorerSettings(name) for name in scorers]
    rows = table_of_scorers(open_model(workdir, step_of(step)), settings, layer, split)
    for row in rows:
        print(json.dumps(row))
    if output:
        write_file(output, encode_table(rows).content)


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
    start()

    from offsites_jax.projects.one_class.report.localizing import localize as find
    from offsites_jax.projects.one_class.report.localizing import write_localized
    from offsites_jax.projects.one_class.second_stage.fit import open_model

    found = find(
        open_model(workdir, step_of(step)),
        split,
        stride=stride,
        aligned=aligned,
        normalize_borders=normalize_borders,
    )
    write_localized(found, output, source=split)
    for name, figures in {"heat maps": found.figures, "GradCAM": found.cam_figures}.items():
        auc = figures.undefined or f"{figures.auc:.6g}"
        size = f"{figures.width} x {figures.height} pixels, {figures.images} images"
        print(f"pixel AUC of {name} {auc} at {size}")


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
    start()

    from offsites_jax.projects.one_class.report.explaining import explain_files
    from offsites_jax.projects.one_class.report.scoring import find_files, read_files
    from offsites_jax.projects.one_class.second_stage.bundle_files import open_bundle

    files = find_files(images)
    bundle = open_bundle(workdir)
    read = read_files(bundle, files, skip_bad=False)
    for row in explain_files(bundle, read, output, steps=steps):
        print(json.dumps(row))


def uniformity(
    workdirs: Positional[tuple[str, ...]],
    output: str,
    split: str = "train",
    layer: LayerChoice = "pooled",
    temperature: float = 2.0,
    step: str = "latest",
) -> None:
    """Compares how evenly features of trainings lie on the sphere: uniformity.csv and uniformity.png.

    Trainings of several batch sizes, with and without distribution augmentation, give the picture of arXiv
    2011.02578. Figures depend on the number of images: compare those of the same split.

    Args:
      workdirs: folders of any trainings of this project.
      output: folder to write to.
      split: images that features are of.
      layer: pooled features, the head's output, logits, or a stage's mean.
      temperature: of the kernel exp(-t x squared distance).
      step: of the checkpoints: latest, best or a number.

    """
    start()

    from offsites_jax.projects.one_class.report.uniformity import measure, write_uniformity

    measured = []
    for workdir in workdirs:
        one = measure(workdir, split=split, layer=layer, temperature=temperature, step=step_of(step))
        print(json.dumps(one.row()))
        measured.append(one)
    write_uniformity(measured, output)


def embedding(
    workdir: Positional[str],
    output: str,
    split: str = "test",
    layer: LayerChoice = "pooled",
    defects: bool = True,
    perplexity: float = 30.0,
    max_points: int = 2000,
    seed: int = 0,
    step: str = "latest",
) -> None:
    """Draws features in a plane by t-SNE, beside those of images with a patch or a scar pasted in.

    Writes embedding.png, its points as embedding.csv, and embedding.json: for anomalies and made-up defects
    the AUC of a Gaussian of the features of `train`.

    Args:
      workdir: folder of any training of this project.
      output: folder to write to.
      split: labelled images.
      layer: pooled features, the head's output, logits, or a stage's mean.
      defects: paste into its normal images, too.
      perplexity: about how many neighbours count.
      max_points: of more, so many are drawn.
      seed: of defects, draw and t-SNE.
      step: of the checkpoint: latest, best or a number.

    """
    start()

    from offsites_jax.projects.one_class.report.embedding import embed_split, write_embedding
    from offsites_jax.projects.one_class.second_stage.fit import open_model

    model = open_model(workdir, step_of(step))
    found, rows = embed_split(
        model, split, layer, defects=defects, perplexity=perplexity, max_points=max_points, seed=seed
    )
    for row in rows:
        print(json.dumps(row))
    write_embedding(found, rows, output)
