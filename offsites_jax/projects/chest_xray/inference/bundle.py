"""Operating points and the way from file to input, put into an export under its manifest's digests."""

import hashlib
import json
import os
from typing import Any

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.inference.scoring import POINTS, read_points

MANIFEST, PREPROCESSING = "manifest.json", "preprocessing.json"

STEPS = (
    "stored values, without bits above BitsStored",
    "modality LUT or rescale",
    "VOI LUT, else the first window, else the full range",
    "MONOCHROME1: invert",
    "least to greatest value as 0 to 1, pixel padding left out",
    "pad to a square with 0, in the middle",
    "bilinear with antialiasing to image_size",
    "times 65535, rounded, uint16",
)


def add_to_export(folder: str | os.PathLike[str], points: str, note: str) -> None:
    """Puts `operating_points.json` and `preprocessing.json` into a folder of `offsites export`.

    Args:
      folder: the export.
      points: file with the operating points.
      note: written beside the steps.

    Raises:
      UserError: no export, or no operating points.
      DamagedDataError: one of them is not what was written.

    """
    place = epath.Path(folder)
    read_points(points)
    manifest = _manifest(place)
    data = manifest["config"]["data"]
    about: dict[str, Any] = {
        "steps": STEPS,
        "image_size": data.get("image_size"),
        "crop_borders": bool(data.get("crop_borders", False)),
        "outputs": manifest["config"].get("model", {}).get("outputs", ["abnormal"]),
        "note": note,
    }
    added = {
        POINTS: epath.Path(points).read_bytes(),
        PREPROCESSING: f"{json.dumps(about, indent=2)}\n".encode(),
    }
    for name, content in added.items():
        write_atomically(place / name, content)
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(manifest, indent=2, sort_keys=True)
    write_atomically(place / MANIFEST, f"{text}\n".encode())


def _manifest(place: epath.Path) -> dict[str, Any]:
    file = place / MANIFEST
    if not file.exists():
        raise UserError(f"{place}: no {MANIFEST} here; give a folder made by `offsites export`")
    try:
        manifest = json.loads(file.read_text())
        complete = "data" in manifest["config"] and isinstance(manifest["files"], dict)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedDataError(f"{file}: is no manifest of an export ({error}); export again") from error
    if not complete:
        raise DamagedDataError(f"{file}: names no data or no files; export again")
    return dict(manifest)
