"""An output folder that appears whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from offsites_jax.errors import OffsitesError, UserError
from offsites_jax.export.manifest import read_manifest


@contextlib.contextmanager
def published(output: str | os.PathLike[str], *, overwrite: bool) -> Iterator[pathlib.Path]:
    """An empty folder beside `output` that takes its name when the block ends, and is gone when it fails.

    Raises:
      UserError: the output exists (and is not to be overwritten, or is no export), or cannot be written.

    """
    output = pathlib.Path(output).absolute()
    check_output(output, overwrite=overwrite)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        replace_folder(partial, output)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{output}: cannot be written ({reason}); choose another output") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(output: pathlib.Path, *, overwrite: bool) -> None:
    """Raises UserError when something stands in the way that is not ours to remove."""
    if not output.exists():
        return
    if not overwrite:
        raise UserError(f"{output}: exists already; choose another output or pass --overwrite")
    try:
        read_manifest(output)
    except OffsitesError as error:
        raise UserError(f"{output}: not overwritten, as it is no export of ours ({error})") from None


def replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder over another one; the old one is back if that fails."""
    if not target.exists():
        source.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
