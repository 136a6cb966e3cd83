"""Proof that nothing leaks from one split into another: patients, files and pictures."""

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath
from jaxtyping import Int, Shaped, UInt64

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.tables.case import Case

NEAR = 4  # bits of 64 that may differ between two files of the same radiograph

_THUMBNAIL, _FREQUENCIES = 32, 8
# Two hashes that differ in four bits agree in at least one of five bands.
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
_MOST_CANDIDATES = 50_000_000
_MOST_LEAKS = 10_000


class Leak(NamedTuple):
    """Two images of different splits that belong into one.

    Attributes:
      kind: "patient", "bytes" (the same file) or "near" (the same picture).
      first: image.
      second: image.
      splits: of both.
      detail: the patient, the file's digest, or how many bits differ.

    """

    kind: str
    first: str
    second: str
    splits: tuple[str, str]
    detail: str


def audit(cases: Sequence[Case], root: str | os.PathLike[str] | None = None, near: int = NEAR) -> list[Leak]:
    """All leaks between splits.

    Args:
      cases: with their splits.
      root: folder of the images. Without it only patients are compared and no image is opened.
      near: bits in which the hashes of two pictures may differ and still count as the same; 0 to 4.

    Raises:
      UserError: a case has no split, an image does not exist, or more pictures look alike than can be
        compared.
      DamagedDataError: an image cannot be decoded.

    """
    unassigned = next((case.image for case in cases if not case.split), "")
    if unassigned:
        raise UserError(f"{unassigned}: has no split; assign splits first")
    leaks = patient_leaks(cases)
    if root is None:
        return leaks
    digests, hashes = [], np.zeros(len(cases), np.uint64)
    for row, case in enumerate(cases):
        content = _read(epath.Path(root) / case.image)
        digests.append(hashlib.sha256(content).hexdigest())
        hashes[row] = perceptual_hash(_decode(content, case.image))
    leaks += byte_leaks(cases, digests)
    same_file = {(leak.first, leak.second) for leak in leaks if leak.kind == "bytes"}
    return leaks + [leak for leak in near_leaks(cases, hashes, near) if leak[1:3] not in same_file]


def patient_leaks(cases: Iterable[Case]) -> list[Leak]:
    """Patients in more than one split, with an image of each."""
    return _crossing("patient", ((case, (case.site, case.patient_id), case.patient_id) for case in cases))


def byte_leaks(cases: Sequence[Case], digests: Sequence[str]) -> list[Leak]:
    """Files whose content lies in more than one split too."""
    return _crossing("bytes", ((case, d, d) for case, d in zip(cases, digests, strict=True)))


def near_leaks(cases: Sequence[Case], hashes: UInt64[np.ndarray, " cases"], near: int = NEAR) -> list[Leak]:
    """Pictures of different splits whose hashes differ in no more than `near` bits.

    Images of equal hash and split stand for one another, so that a thousand blank ones are one.

    Raises:
      UserError: `near` is not 0 to 4, or far too many look alike.

    """
    if not 0 <= near <= NEAR:
        raise UserError(f"near: {near}; must be 0 to {NEAR}")
    splits = {name: number for number, name in enumerate(sorted({case.split for case in cases}))}
    kinds = np.array([splits[case.split] for case in cases], np.uint64)
    _, rows = np.unique(np.stack([hashes, kinds]), axis=1, return_index=True)
    leaks = []
    for first, second in sorted(_close_pairs(hashes[rows], kinds[rows], near)):
        one, other = sorted((int(rows[first]), int(rows[second])))
        bits = int(np.bitwise_count(hashes[one] ^ hashes[other]))
        leaks.append(_leak("near", cases[one], cases[other], f"{bits} bits differ"))
    return leaks


def perceptual_hash(image: Shaped[np.ndarray, "height width"]) -> np.uint64:
    """64 bits of a grey picture that hardly change with size, brightness, contrast or compression.

    The picture is shrunk to 32x32; each of its 8x8 lowest frequencies (of the cosine transform) gives a bit:
    above or below their median.
    """
    small = cv2.resize(image.astype(np.float32), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:_FREQUENCIES, :_FREQUENCIES].ravel()
    # Brightness is frequency 0 alone; it would only tell dark pictures from light ones.
    bits = low > np.median(low[1:])
    return np.packbits(bits).view(">u8").astype(np.uint64)[0]


def _crossing(kind: str, keyed: Iterable[tuple[Case, Hashable, str]]) -> list[Leak]:
    """The first case of a key in each split, against the first of all."""
    first: dict[Hashable, dict[str, Case]] = defaultdict(dict)
    detail: dict[Hashable, str] = {}
    for case, key, text in keyed:
        first[key].setdefault(case.split, case)
        detail[key] = text
    return [
        _leak(kind, one, other, detail[key])
        for key, by_split in first.items()
        for one, other in itertools.pairwise(by_split.values())
    ]


def _leak(kind: str, one: Case, other: Case, detail: str) -> Leak:
    return Leak(kind, one.image, other.image, (one.split, other.split), detail)


def _close_pairs(
    hashes: UInt64[np.ndarray, " n"], kinds: UInt64[np.ndarray, " n"], near: int
) -> set[tuple[int, int]]:
    """Pairs of different kinds whose hashes are close: those that agree in a band are compared."""
    found: set[tuple[int, int]] = set()
    candidates = 0
    for start, width in _BANDS:
        bands = (hashes >> np.uint64(start)) & np.uint64(2**width - 1)
        for group in _groups(bands):
            candidates += len(group) ** 2
            if candidates > _MOST_CANDIDATES or len(found) > _MOST_LEAKS:
                raise UserError(
                    "near duplicates: too many pictures look alike to list; look at the images first"
                )
            close = np.bitwise_count(hashes[group][:, None] ^ hashes[group]) <= near
            close &= kinds[group][:, None] != kinds[group]
            found.update((int(group[a]), int(group[b])) for a, b in np.argwhere(np.triu(close)))
    return found


def _groups(values: UInt64[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " members"]]:
    """Positions of equal values, where there are at least two."""
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    return (group for group in np.split(order, cuts) if len(group) > 1)


def _read(file: epath.Path) -> bytes:
    if not file.exists():
        raise UserError(f"{file}: no such file; paths are below the root")
    return file.read_bytes()


def _decode(content: bytes, name: str) -> Shaped[np.ndarray, "height width"]:
    """Grey values of any depth."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise DamagedDataError(f"{name}: cannot be decoded; only PNG and JPEG are compared as pictures")
    return image
