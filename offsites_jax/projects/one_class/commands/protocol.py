"""Tables of a whole data set."""

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.commands.shared import ScorerChoice, start


def protocol(
    experiment: Positional[str],
    workdir: str,
    categories: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    scorers: tuple[ScorerChoice, ...] = ("gde",),
    raw_pixels: bool = False,
    untrained: bool = False,
    ensemble: bool = True,
    stacked: bool = False,
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
      untrained: also the figures of the network that each training starts with: fresh, or pretrained.
      ensemble: also the mean score of all seeds.
      stacked: train all classes and seeds side by side, in one job over all devices; each then has the
        checkpoint that a job of its own would have left.
      overrides: keys of every cell to change, as train.steps=100.

    """
    from offsites_jax.projects.one_class.protocol.run import Plan, run

    plan = Plan(
        experiment,
        workdir,
        categories,
        seeds,
        scorers,
        raw_pixels,
        untrained,
        ensemble,
        _pairs(overrides),
        stacked,
    )
    start(plan.cpu_devices, cache=epath.Path(workdir) / "compile_cache")
    print(run(plan))


def _pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    """`key=value` as {key: value}."""
    found = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--overrides: {text!r} is not like train.steps=100")
        found[key] = value
    return found
