"""Photos in folders: `train/good`, `test/<kind>` and perhaps `ground_truth/<kind>`; or simply good photos.

This is the layout of MVTec AD (Bergmann et al. 2019) with file names of one's own. Masks are matched to
images by stem: that of `test/crack/7.png` is `ground_truth/crack/7_mask.png` or `ground_truth/crack/7.png`.
"""

import os

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, GOOD, NORMAL, Photo, PhotoSource

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_ENDING = "_mask"

_NO_PHOTOS = ("thumbs.db", "desktop.ini")  # what file managers leave behind


def open_folder(root: epath.PathLike, split: str) -> PhotoSource:
    """The photos of a split.

    Args:
      root: folder with `train/good` inside, or with good photos inside and nothing else.
      split: train or test. A folder of good photos only has `train`.

    Raises:
      UserError: something is missing or does not belong there; the message names it.

    """
    folder = epath.Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; config.data.path names the folder of the photos")
    if split not in ("train", "test"):
        raise UserError(f"{folder}: has no split {split!r}; use train or test")
    if is_plain(folder):
        return PhotoSource(folder, _plain(folder, split))
    return PhotoSource(folder, _train(folder) if split == "train" else _test(folder))


def is_plain(root: epath.PathLike) -> bool:
    """Whether a folder holds good photos themselves, not `train/` or `test/`."""
    folder = epath.Path(root)
    return not (folder / "train").is_dir() and not (folder / "test").is_dir()


def photo_names(folder: epath.Path) -> list[str]:
    """Names of the images in a folder, in order of bytes.

    Raises:
      UserError: the folder is missing, or holds something else than images.

    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it is where photos of that kind belong")
    names = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    names = sorted((name for name in names if name.lower() not in _NO_PHOTOS), key=os.fsencode)
    for name in names:
        if name.lower().endswith(SUFFIXES):
            continue
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: a folder where only photos belong; name it itself, or move it")
        raise UserError(
            f"{folder / name}: not an image ({', '.join(SUFFIXES)}); convert it, or move it elsewhere"
        )
    return names


def _plain(folder: epath.Path, split: str) -> list[Photo]:
    if split == "test":
        raise UserError(
            f"{folder}: holds good photos only, nothing to test on; "
            "put photos into test/good and test/<kind of defect>, the others into train/good"
        )
    names = photo_names(folder)
    if not names:
        raise UserError(
            f"{folder}: no photos there; put good ones into it, or into {folder / 'train' / GOOD}"
        )
    return [Photo(name, NORMAL, GOOD) for name in names]


def _train(folder: epath.Path) -> list[Photo]:
    others = [name for name in _folders(folder / "train") if name != GOOD]
    if others:
        raise UserError(
            f"{folder / 'train' / others[0]}: training is on good photos only; move it to {folder / 'test'}"
        )
    names = photo_names(folder / "train" / GOOD)
    if not names:
        raise UserError(f"{folder / 'train' / GOOD}: no photos; training needs good ones")
    return [Photo(f"train/{GOOD}/{name}", NORMAL, GOOD) for name in names]


def _test(folder: epath.Path) -> list[Photo]:
    kinds = _folders(folder / "test")
    if not kinds:
        raise UserError(f"{folder / 'test'}: no folders; put photos into test/good and test/<kind of defect>")
    masks = _masks(folder, kinds)
    photos = []
    for kind in kinds:
        names = photo_names(folder / "test" / kind)
        label = NORMAL if kind == GOOD else ANOMALOUS
        matched = _match(folder, kind, names, masks[kind]) if kind in masks else {}
        photos += [Photo(f"test/{kind}/{name}", label, kind, matched.get(name, "")) for name in names]
    if not photos:
        raise UserError(f"{folder / 'test'}: no photos in any of {', '.join(kinds)}")
    return photos


def _masks(folder: epath.Path, kinds: list[str]) -> dict[str, list[str]]:
    """Names of the mask files by kind of defect; empty where there is no ground truth at all."""
    truth = folder / "ground_truth"
    if not truth.is_dir():
        return {}
    found = {kind: photo_names(truth / kind) for kind in _folders(truth)}
    for kind in found:
        if kind == GOOD:
            raise UserError(f"{truth / kind}: good photos have no masks; remove the folder")
        if kind not in kinds:
            raise UserError(
                f"{truth / kind}: masks of a kind without photos; expected {folder / 'test' / kind}"
            )
    for kind in kinds:
        if kind != GOOD and kind not in found:
            raise UserError(f"{folder / 'test' / kind}: photos without masks; expected {truth / kind}")
    return found


def _match(folder: epath.Path, kind: str, names: list[str], masks: list[str]) -> dict[str, str]:
    """The mask of each photo, by stem."""
    truth = folder / "ground_truth" / kind
    by_stem: dict[str, str] = {}
    for mask in masks:
        stem = _stem(mask).removesuffix(MASK_ENDING)
        if stem in by_stem:
            raise UserError(f"{truth}: {by_stem[stem]} and {mask} are masks of the same photo; keep one")
        by_stem[stem] = mask
    matched: dict[str, str] = {}
    for name in names:
        mask_name = by_stem.pop(_stem(name), None)
        if mask_name is None:
            raise UserError(
                f"{folder / 'test' / kind / name}: has no mask; "
                f"expected {truth / f'{_stem(name)}{MASK_ENDING}.png'} for it alone"
            )
        matched[name] = f"ground_truth/{kind}/{mask_name}"
    if by_stem:
        raise UserError(
            f"{truth / min(by_stem.values())}: a mask without a photo in {folder / 'test' / kind}"
        )
    return matched


def _folders(folder: epath.Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a folder of photos has train/{GOOD} and test/<kind>")
    inside = [child.name for child in folder.iterdir() if child.is_dir()]
    return sorted((name for name in inside if not name.startswith(".")), key=os.fsencode)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
