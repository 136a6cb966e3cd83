"""Made-up archives: what is planted is there, splits go by outline, both photometric forms are one."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.inference.activation import parse_box
from offsites_jax.projects.chest_xray.intake import dicom, radiograph
from offsites_jax.projects.chest_xray.synthetic import archive as synthetic
from offsites_jax.projects.chest_xray.synthetic import drawing, outlines
from offsites_jax.projects.chest_xray.tables.manifest import read_manifest


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def mask(seed, full=255):
    """Two ellipses side by side; the patient's right lung is the larger one."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (300, 260), 0)
    pen = ImageDraw.Draw(image)
    pen.ellipse((30, 30 + rng.integers(10), 135, 220), fill=full)
    pen.ellipse((165, 40 + rng.integers(10), 265, 215), fill=full)
    return np.array(image)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    file = tmp_path_factory.mktemp("masks") / "masks.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(12):
            archive.writestr(f"lungs/{number:02d}.png", png(mask(number)))
        archive.writestr("lungs/00_guessed.png", png(mask(0, full=127)))
        archive.writestr("lungs/00_empty.png", png(np.zeros((50, 50), np.uint8)))
        archive.writestr("lungs/00_cut.png", png(mask(0)[:, 60:]))
    return file


@pytest.fixture(scope="module")
def archive(masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return folder, synthetic.synthesize(folder, 24, seed=3, height=96, masks=masks)


def test_outlines_are_whole_pairs_of_lungs(masks):
    found = outlines.read_outlines(masks, 100)
    assert [outline.name for outline in found] == [f"{number:02d}.png" for number in range(12)]
    lungs = found[0].lungs
    assert lungs.shape[0] == outlines.HEIGHT
    assert lungs.max(axis=0)[[0, -1]].min() > 0
    half = lungs.shape[1] // 2
    assert lungs[:, :half].sum() > lungs[:, half:].sum()
    assert len(outlines.read_outlines(masks, 5)) == 5


def test_files_without_outlines_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        outlines.read_outlines(tmp_path / "none.zip", 1)
    (tmp_path / "wrong.zip").write_bytes(b"PK no zip")
    with pytest.raises(DamagedDataError, match="not a zip archive"):
        outlines.read_outlines(tmp_path / "wrong.zip", 1)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        file.writestr("a.png", png(np.zeros((20, 20), np.uint8)))
    with pytest.raises(UserError, match="no mask shows two lungs"):
        outlines.read_outlines(tmp_path / "empty.zip", 1)


def test_the_manifest_tells_what_is_in_the_files(archive):
    folder, cases = archive
    assert read_manifest(folder / "manifest.csv") == cases
    for case in cases:
        found = dicom.read(folder / case.image)
        assert (found.patient_id, found.sex, found.view) == (case.patient_id, case.sex, case.view)
        assert found.age == case.age
        assert case.label == bool(case.extra["finding"]) == bool(case.extra["box"])
    images = {}
    for case in cases:
        images[case.patient_id] = images.get(case.patient_id, 0) + 1
    assert len(images) == 24
    assert set(images.values()) == {2, 3, 4}
    assert 0.3 < np.mean([case.label for case in cases]) < 0.7


def test_splits_go_by_outline(archive):
    _, cases = archive
    splits = {}
    for case in cases:
        splits.setdefault(case.extra["outline"], set()).add(case.split)
    assert len(splits) == 12
    assert all(len(found) == 1 for found in splits.values())
    assert len({case.split for case in cases}) > 1


def test_the_same_seed_gives_the_same_files(archive, masks, tmp_path):
    folder, _ = archive
    synthetic.synthesize(tmp_path, 24, seed=3, height=96, masks=masks)
    for file in sorted(folder.rglob("*.*")):
        assert (tmp_path / file.relative_to(folder)).read_bytes() == file.read_bytes()
    other = synthetic.synthesize(tmp_path, 2, seed=4, height=96, masks=masks)
    assert (tmp_path / other[0].image).read_bytes() != (folder / other[0].image).read_bytes()


@pytest.mark.parametrize("finding", drawing.FINDINGS)
@pytest.mark.parametrize("seed", range(6))
def test_findings_brighten_the_lung_they_are_in(masks, finding, seed):
    lungs = outlines.read_outlines(masks, 1)[0].lungs
    placed = drawing.placed(lungs, np.random.default_rng(seed), 200)
    region, strength = drawing.planted(placed, np.random.default_rng(seed), finding)
    assert region.any()
    assert (placed[region] > 0.5).all()
    assert strength[region].mean() > 0.1
    assert strength[~region].sum() < 0.6 * strength.sum()
    drawn = drawing.draw(drawing.Body(lungs, 5), np.random.default_rng(seed), 200, finding)
    box = drawn.box
    inside = drawn.region[box.top : box.top + box.height, box.left : box.left + box.width]
    assert inside.sum() == drawn.region.sum()
    assert (drawn.pixels.min() >= 0, drawn.pixels.max()) == (True, 1)


def test_effusions_lie_below_their_level(masks):
    lungs = outlines.read_outlines(masks, 1)[0].lungs
    placed = drawing.placed(lungs, np.random.default_rng(0), 200)
    region, _ = drawing.planted(placed, np.random.default_rng(0), "effusion")
    halves = np.arange(placed.shape[1]) > placed.shape[1] / 2
    lung = (placed > 0.5) & (halves == halves[region.any(axis=0).argmax()])
    rows = np.flatnonzero(region.any(axis=1))
    assert rows[-1] == np.flatnonzero(lung.any(axis=1))[-1]
    for column in np.flatnonzero(region.any(axis=0)):
        inside = region[lung[:, column], column]
        assert (np.diff(inside.astype(int)) >= 0).all()


def test_both_photometric_forms_are_one_picture(archive):
    folder, cases = archive
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    plain, inverted = (
        dicom.parse(synthetic.dicom_file(pixels, cases[0], inverted=inverted)) for inverted in (False, True)
    )
    np.testing.assert_allclose(plain.pixels, inverted.pixels, atol=1e-6)
    kinds = [b"MONOCHROME1" in (folder / case.image).read_bytes() for case in cases]
    assert abs(sum(kinds) - len(kinds) / 2) <= 1


def test_boxes_hold_the_finding(archive):
    folder, cases = archive
    case = next(case for case in cases if case.extra["finding"] == "effusion")
    box, pixels = parse_box(case.extra["box"]), radiograph.read(folder / case.image).pixels
    assert box.top + box.height <= pixels.shape[0]
    assert box.left + box.width <= pixels.shape[1]
    mirrored = pixels[box.top : box.top + box.height, ::-1][:, box.left : box.left + box.width]
    assert pixels[box.top : box.top + box.height, box.left : box.left + box.width].mean() > mirrored.mean()


def test_impossible_numbers_are_refused(tmp_path, masks):
    for patients, height in ((0, 96), (1, 10)):
        with pytest.raises(UserError, match="--patients"):
            synthetic.synthesize(tmp_path, patients, height=height, masks=masks)
