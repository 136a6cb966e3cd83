"""An output folder that appears whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from offsites_jax.errors import OffsitesError, UserError
from offsites_jax.export.manifest import MANIFEST, as_path, file_names, is_remote, read_manifest


@contextlib.contextmanager
def published(output: str | os.PathLike[str], *, overwrite: bool) -> Iterator[pathlib.Path]:
    """An empty local folder that becomes `output` when the block ends, and is gone when it fails.

    On a disk it is renamed. To a bucket its files are copied, the manifest last: without one nobody takes
    them for an export.

    Raises:
      UserError: the output exists (and is not to be overwritten, or is no export), or cannot be written.

    """
    target = as_path(output)
    check_output(target, overwrite=overwrite)
    try:
        if is_remote(output):
            with tempfile.TemporaryDirectory() as partial:
                yield pathlib.Path(partial)
                upload(pathlib.Path(partial), target)
        else:
            with folder_beside(target) as partial_folder:
                yield partial_folder
                replace_folder(partial_folder, target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{output}: cannot be written ({reason}); choose another output") from error


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


@contextlib.contextmanager
def folder_beside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder on the disk of `target`, removed at the end unless renamed."""
    partial = target.absolute().with_name(f".{target.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder over another one; the old one is back if that fails."""
    if not target.exists():
        source.rename(target)
        return
    old = source.with_suffix(".old")
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def upload(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a finished folder into a bucket, in place of what was there."""
    from etils import epath

    bucket = epath.Path(target)
    bucket.rmtree(missing_ok=True)
    for name in [*file_names(source), MANIFEST]:
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        epath.Path(source / name).copy(bucket / name)
