"""Made-up radiographs: real lung outlines, everything else drawn. They look like nothing a clinic would use.

Brightness stands for how much the body holds back: soft tissue, bones and fluid are bright, air is dark.
"""

import dataclasses
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from scipy.special import expit

from offsites_jax.data.image import Box

Finding = Literal["opacity", "effusion"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)

Plane = Float32[np.ndarray, "height width"]
Region = Bool[np.ndarray, "height width"]

_MARGINS = (0.16, 0.22)  # around the lungs, least and most, in their heights
_RIBS = 9


@dataclasses.dataclass(frozen=True)
class Body:
    """What stays the same in all images of a patient.

    Attributes:
      lungs: cut to the box around both.
      seed: of ribs, heart and texture.

    """

    lungs: Plane
    seed: int


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A made-up radiograph.

    Attributes:
      pixels: [height, width] from 0 to 1.
      region: where the finding is; None without one.

    """

    pixels: Plane
    region: Region | None

    @property
    def box(self) -> Box | None:
        """The box around the finding."""
        if self.region is None:
            return None
        rows, columns = (np.flatnonzero(self.region.any(axis=axis)) for axis in (1, 0))
        return Box(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


def draw(body: Body, rng: np.random.Generator, height: int, finding: Finding | None = None) -> Drawn:
    """One radiograph of a patient.

    Args:
      body: the patient.
      rng: of what differs between two images of one patient: position, exposure, noise, the finding.
      height: of the picture; the width follows from the lungs.
      finding: what to plant in a lung.

    """
    lungs = placed(body.lungs, rng, height)
    own = np.random.default_rng(body.seed)
    region, strength = planted(lungs, rng, finding) if finding else (None, None)
    picture = _tissue(lungs, own)
    picture -= own.uniform(0.34, 0.42) * _blurred(lungs, 0.006)
    picture += _vessels(lungs, own)
    if strength is not None:
        picture += strength
    picture += _middle(lungs, own) + _ribs(lungs, own)
    picture = picture * rng.uniform(0.85, 1.1) + 0.012 * rng.standard_normal(picture.shape, np.float32)
    picture = np.clip(picture, 0, None) ** np.float32(rng.uniform(0.85, 1.2))
    _mark_side(picture)
    return Drawn((picture / picture.max()).astype(np.float32), region)


def placed(lungs: Plane, rng: np.random.Generator, height: int) -> Plane:
    """Lungs in a picture with room around them, slightly turned and moved."""
    top, bottom, left, right = rng.uniform(*_MARGINS, 4)
    scale = height / (len(lungs) * (1 + top + bottom))
    width = round(scale * (lungs.shape[1] + len(lungs) * (left + right)))
    angle = rng.uniform(-4, 4)
    turn = cv2.getRotationMatrix2D((lungs.shape[1] / 2, len(lungs) / 2), angle, scale)
    moved = np.array([width - lungs.shape[1], height - len(lungs)]) / 2
    shift = moved + rng.uniform(-0.03, 0.03, 2) * height
    turn = np.asarray(turn, np.float64) + np.column_stack([np.zeros((2, 2)), shift])
    return cv2.warpAffine(lungs, turn, (width, height), flags=cv2.INTER_AREA)


def planted(lungs: Plane, rng: np.random.Generator, finding: Finding) -> tuple[Region, Plane]:
    """Where a finding is in a lung, and how much it adds to the picture."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats((lungs > 0.5).astype(np.uint8))
    largest = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:2] + 1
    lung = parts == rng.choice(largest)
    return _opacity(lung, rng) if finding == "opacity" else _effusion(lung, rng)


def _opacity(lung: Region, rng: np.random.Generator) -> tuple[Region, Plane]:
    """A soft-edged blob, well inside the lung."""
    height = len(lung)
    depth = cv2.distanceTransform(lung.astype(np.uint8), cv2.DIST_L2, 5)
    deep = np.argwhere(depth > 0.5 * depth.max())
    row, column = deep[rng.integers(len(deep))]
    radii = rng.uniform(0.05, 0.09, 2) * height
    y, x = np.ogrid[:height, : lung.shape[1]]
    distance = np.sqrt(((y - row) / radii[0]) ** 2 + ((x - column) / radii[1]) ** 2).astype(np.float32)
    shape = expit(6 * (1 - distance))
    lumps = 1 + 0.25 * _noise(rng, lung.shape, height / 30)
    return (distance < 1) & lung, rng.uniform(0.2, 0.32) * shape * lumps * _blurred(lung, 0.006)


def _effusion(lung: Region, rng: np.random.Generator) -> tuple[Region, Plane]:
    """Fluid up to a level that rises towards the chest wall."""
    rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
    level = rows[-1] - rng.uniform(0.25, 0.45) * np.ptp(rows)
    left_half = columns.mean() < lung.shape[1] / 2
    wall = columns[0] if left_half else columns[-1]
    y, x = np.ogrid[: len(lung), : lung.shape[1]]
    meniscus = 0.12 * np.ptp(rows) * np.exp(-np.abs(x - wall) / (0.25 * np.ptp(columns)))
    below = y - (level - meniscus)
    shape = expit(below / (0.008 * len(lung))).astype(np.float32)
    return lung & (below > 0), rng.uniform(0.28, 0.36) * shape * _blurred(lung, 0.006)


def _tissue(lungs: Plane, rng: np.random.Generator) -> Plane:
    """The trunk: around the lungs, open below, thinner towards its sides; with coarse and fine texture."""
    height, width = lungs.shape
    points = cv2.findNonZero((lungs > 0.5).astype(np.uint8))
    trunk = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(trunk, cv2.convexHull(points), 1)
    left, top, across, _ = cv2.boundingRect(points)
    sides = (max(0, left - across // 20), min(width, left + across + across // 20))
    trunk[top + height // 3 :, sides[0] : sides[1]] = 1
    reach = round(0.11 * height)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    trunk = np.asarray(cv2.dilate(trunk, disc), np.uint8)
    neck = slice(left + across // 2 - across // 7, left + across // 2 + across // 7)
    trunk[: top + reach, neck] = 1
    texture = 0.05 * _noise(rng, lungs.shape, height / 5) + 0.02 * _noise(rng, lungs.shape, height / 40)
    return _blurred(trunk, 0.03) * (0.62 + texture)


def _vessels(lungs: Plane, rng: np.random.Generator) -> Plane:
    """Threads that are denser near the middle, where the vessels come in."""
    height, width = lungs.shape
    fine = np.abs(_noise(rng, lungs.shape, height / 45))
    middle = np.exp(-np.abs(np.arange(width) - width / 2) / (0.2 * width)).astype(np.float32)
    return 0.09 * np.exp(-4 * fine) * (0.3 + middle[None]) * lungs


def _middle(lungs: Plane, rng: np.random.Generator) -> Plane:
    """Spine, mediastinum, and a heart that is larger on the patient's left, the right of the picture."""
    height, width = lungs.shape
    columns = np.flatnonzero((lungs > 0.5).any(axis=0))
    rows = np.flatnonzero((lungs > 0.5).any(axis=1))
    axis, across, tall = columns.mean(), np.ptp(columns), np.ptp(rows)
    y, x = (grid.astype(np.float32) for grid in np.ogrid[:height, :width])
    spine = np.exp(-(((x - axis) / (0.055 * across)) ** 2))
    bodies = 1 + 0.12 * np.sin(2 * np.pi * y / (0.075 * tall) + rng.uniform(0, 6))
    heart_x, heart_y = axis + 0.07 * across, rows[0] + rng.uniform(0.68, 0.74) * tall
    radii = rng.uniform(0.17, 0.21) * across, rng.uniform(0.2, 0.25) * tall
    heart = expit(9 * (1 - ((x - heart_x) / radii[0]) ** 2 - ((y - heart_y) / radii[1]) ** 2))
    return (0.16 * spine * bodies + rng.uniform(0.1, 0.16) * heart).astype(np.float32)


def _ribs(lungs: Plane, rng: np.random.Generator) -> Plane:
    """Bands that leave the spine and fall towards the sides, brighter at their edges; and collar bones."""
    height, width = lungs.shape
    columns = np.flatnonzero((lungs > 0.5).any(axis=0))
    rows = np.flatnonzero((lungs > 0.5).any(axis=1))
    y, x = (grid.astype(np.float32) for grid in np.ogrid[:height, :width])
    out = np.abs(x - columns.mean()) / (0.5 * np.ptp(columns))  # 0 at the spine, 1 at the side
    inside = expit(25 * (1.06 - out))
    thick, gap = 0.019 * height, np.ptp(rows) / (_RIBS - 0.5)
    total = np.zeros((height, width), np.float32)
    fall = rng.uniform(0.5, 0.8) * gap
    for rib in range(_RIBS + 1):
        middle = rows[0] + (rib - 0.4) * gap + fall * (out**2 * 2.2 - out * 0.9) + rng.normal(0, 0.03 * gap)
        total += _band(y - middle, thick) * inside
    collar = rows[0] + gap * (0.75 - 0.9 * out)
    total += 1.3 * _band(y - collar, 1.3 * thick) * inside * (out > 0.12)
    return rng.uniform(0.05, 0.08) * _blurred(total, 0.003)


def _band(distance: np.ndarray, half: float) -> np.ndarray:
    """1 within `half`, more at the edges, falling off outside."""
    ratio = np.abs(distance) / half
    return (0.7 + 0.5 * np.minimum(ratio, 2) ** 2) * expit(10 * (1 - ratio))


def _mark_side(picture: Plane) -> None:
    """The letter that stands for the patient's left side."""
    height, width = picture.shape
    letter = np.zeros(picture.shape, np.uint8)
    place, size = (width - height // 12, height // 10), height / 500
    cv2.putText(letter, "L", place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, max(1, height // 200), cv2.LINE_AA)
    np.maximum(picture, 0.95 * letter.astype(np.float32) / 255, out=picture)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], length: float) -> Plane:
    """Smooth noise of unit deviation whose features are about `length` pixels long."""
    small = [max(4, round(side / length) + 3) for side in shape]
    coarse = rng.standard_normal(small).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _blurred(plane: np.ndarray, share: float) -> Plane:
    """Gaussian blur by a share of the height."""
    return cv2.GaussianBlur(plane.astype(np.float32), (0, 0), share * len(plane))
