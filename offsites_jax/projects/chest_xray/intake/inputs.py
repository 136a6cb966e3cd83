"""Radiographs a user names: files, folders with all that is below them, manifests."""

import dataclasses
import os
from collections.abc import Iterator, Sequence

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.manifest import read_manifest

TABLES = (".csv", ".csv.gz", ".parquet")

_NO_IMAGES = ("DICOMDIR", "LICENSE", "README.md")


@dataclasses.dataclass(frozen=True)
class Input:
    """A radiograph to read.

    Attributes:
      path: of the file.
      case: its name, and what a manifest says of it.

    """

    path: epath.Path
    case: Case

    @property
    def name(self) -> str:
        """As results list it."""
        return self.case.image


def find_inputs(paths: Sequence[str], split: str = "") -> list[Input]:
    """All radiographs, in order.

    A file of a manifest that is not there is listed, too: whoever reads it says so.

    Args:
      paths: image files, folders, and manifests by their ending.
      split: of manifests, take only this one.

    Raises:
      UserError: nothing is there, or two have the same name.

    """
    found = [one for path in paths for one in _inputs(path, split)]
    if not found:
        where = f" with the split {split!r}" if split else ""
        raise UserError(f"{', '.join(paths) or 'INPUT'}: no files{where}; name files, folders or a manifest")
    if len({one.name for one in found}) < len(found):
        # Two folders may hold files of one name: then all go by their whole path.
        found = [
            dataclasses.replace(one, case=dataclasses.replace(one.case, image=str(one.path))) for one in found
        ]
    if len({one.name for one in found}) < len(found):
        raise UserError(f"{', '.join(paths)}: a file is named twice; name it once")
    return found


def _inputs(path: str, split: str) -> Iterator[Input]:
    place = epath.Path(path)
    if place.name.endswith(TABLES):
        cases = read_manifest(place, check_files=False)
        yield from (Input(place.parent / case.image, case) for case in cases if split in ("", case.split))
    elif place.is_dir():
        yield from (Input(file, Case(str(file.relative_to(place)), "")) for file in _files(place))
    elif place.exists():
        yield Input(place, Case(place.name, ""))
    else:
        raise UserError(f"{path}: no such file or folder; check the path")


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name not in _NO_IMAGES and not name.endswith(TABLES):
                yield epath.Path(root) / name
