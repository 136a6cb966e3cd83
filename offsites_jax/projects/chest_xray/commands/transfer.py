"""What people do to learn what a detector is worth to another task."""

from typing import Literal

from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.commands.shared import pairs, start, write

TITLES = {"probe": "Linear probe", "finetune": "Fine-tuning"}


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

    found = load_experiment(experiment, pairs(overrides))
    start(found.mesh.cpu_devices)

    import dataclasses

    from offsites_jax.projects.chest_xray.transfer import curves, runs
    from offsites_jax.train.media import encode_figure, encode_table

    places = runs.parse_starts(starts)
    if not places or seeds < 1:
        raise UserError(
            f"--starts {list(starts)}, --seeds {seeds}: give one start or more, and one seed or more"
        )
    if mode == "finetune":
        points = []
        for point in runs.fine_tune(found.raw, places, fractions, range(seeds), f"{output}/runs"):
            points.append(point)
            print(f"{point.start}, {point.fraction:.0%} ({point.patients} patients), seed {point.seed}: "
                  f"{point.auc:.3f}")  # fmt: skip
    else:
        splits = (found.data.train_split, "test")
        features = {name: runs.features_of(found, path, splits) for name, path in places.items()}
        parts = {name: (train, test) for name, (train, test) in features.items()}
        points = curves.learning_curve(parts, fractions, range(seeds), strength)
    write(f"{output}/transfer.csv", encode_table([dataclasses.asdict(point) for point in points]).content)
    write(f"{output}/curve.png", encode_figure(curves.curve_figure(points, TITLES[mode])).content)
    first, *others = places
    for other in others:
        rows = curves.compare(points, first, other)
        write(f"{output}/compare_{first}_{other}.csv", encode_table(rows).content)
        for row in rows:
            print(
                f"{row['fraction']:>6.0%} ({row['patients']} patients): {first} {row[first]:.3f}, {other} "
                f"{row[other]:.3f}, difference {row['difference']:+.3f} +- {row['standard_error']:.3f}"
            )
    print(f"{output}: {len(points)} trainings")
