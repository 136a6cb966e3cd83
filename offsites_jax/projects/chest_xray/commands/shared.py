"""What the commands of this project share."""

import os

from etils import epath

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.notice import BANNER


def start(cpu_devices: int = 0) -> None:
    """Says what this is, and prepares JAX."""
    banner()

    from offsites_jax.parallel.start import start as prepare

    prepare(cpu_devices)


def banner() -> None:
    """Says what this is."""
    print(BANNER)


def pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE as values by key."""
    wrong = next((text for text in overrides if "=" not in text), "")
    if wrong:
        raise UserError(f"--overrides: {wrong!r}; write KEY=VALUE, as train.steps=100")
    return dict(text.removeprefix("--config.").split("=", 1) for text in overrides)


def check_all_read(errors: dict[str, str], count: int) -> None:
    """Ends a command with code 3, after all is written, where a file could not be read."""
    if errors:
        name, reason = next(iter(errors.items()))
        raise DamagedDataError(
            f"{len(errors)} of {count} files could not be read; the first, {name}: {reason}"
        )


def write(file: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file that is never seen half-written."""
    from offsites_jax.data.atomic import write_atomically

    write_atomically(epath.Path(file), content)
