"""The `offsites` command: parses, then imports only what the chosen verb needs."""

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence

from offsites_jax.errors import EXIT_USER_ERROR, OffsitesError, UserError

# verb: (module in offsites_jax.cli, one line of help)
VERBS = {
    "train": ("train", "train an experiment, or go on with it"),
    "launch": ("launch.verb", "train on many processes: local, slurm, gke, tpu-vm or xpk"),
    "eval": ("evaluate", "score a checkpoint with the experiment's evaluators"),
    "predict": ("predict", "run a checkpoint or an export on files"),
    "plan": ("plan", "compile a run for real TPUs without one: memory, collectives, a floor for its time"),
    "export": ("export", "write a checkpoint as StableHLO, SavedModel, safetensors or Orbax parameters"),
    "import": ("import_", "bring published weights into a model: from timm, google/automl or Keras"),
    "data": ("data", "show exactly the batch of a step"),
    "verify": ("verify", "check every leaf of every checkpoint, or compare two runs by leaf"),
    "selftest": ("selftest", "prove exact resume, elastic data and mesh independence on this machine"),
    "compare": ("compare", "compare a run's figures with the published ones"),
    "list": ("list", "list models, experiments or projects"),
}

# What the machine refuses, as opposed to what the code gets wrong.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exits with 0, or with the code of the error that stopped it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = show_unraisable
    try:
        sys.exit(run(argv))
    except OffsitesError as error:
        print(f"offsites: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        file = error.filename or "a file"
        print(f"offsites: {file}: {error.strerror}; make room, or choose another folder", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("offsites: interrupted", file=sys.stderr)
        sys.exit(130)


def show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Shows what Python could raise nowhere, but for what follows from an error that is shown anyway.

    Where a checkpoint cannot be written or read, each thread of TensorStore reports that to an event loop
    which Orbax has closed by then, and would print a traceback about the loop.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run(argv: list[str]) -> int:
    """Runs one verb, or a project's job, and returns the exit code."""
    if argv and not argv[0].startswith("-") and argv[0] not in VERBS:
        return run_job(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="offsites",
        description="One JAX trainer, eleven systems.",
        epilog="`offsites PROJECT --help` lists a project's own jobs. Any verb: `offsites VERB --help`.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (module, text) in VERBS.items():
        if argv and argv[0] == verb:
            importlib.import_module(f"offsites_jax.cli.{module}").add_arguments(
                verbs.add_parser(verb, help=text)
            )
        else:
            verbs.add_parser(verb, help=text)
    options, rest = parser.parse_known_args(argv)
    options.overrides = parse_overrides(rest)
    return importlib.import_module(f"offsites_jax.cli.{VERBS[options.verb][0]}").run(options) or 0


def parse_overrides(rest: Sequence[str]) -> dict[str, str]:
    """`--config.train.steps=5` and `--config.train.steps 5` as {"train.steps": "5"}."""
    overrides: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not word.startswith("--config.") or not key:
            raise UserError(
                f"{word}: unknown argument; --help lists what there is, overrides look like "
                "--config.train.steps=5"
            )
        if not equals:
            value = next(words, "")
            if not value or value.startswith("--"):
                raise UserError(f"{word}: needs a value, as in {word}=5")
        overrides[key] = value
    return overrides


def run_job(project: str, argv: Sequence[str]) -> int:
    """Runs a typed function of a project's jobs.py; its signature is its command line."""
    import tyro

    from offsites_jax.train.project import find_project, list_projects
    from offsites_jax.train.schema import nearest

    if project not in list_projects():
        raise UserError(f"{project}: no such verb or project{nearest(project, [*VERBS, *list_projects()])}")
    jobs = find_project(project).module("jobs").JOBS
    tyro.extras.subcommand_cli_from_dict(jobs, prog=f"offsites {project}", args=list(argv))
    return 0


if __name__ == "__main__":
    main()
