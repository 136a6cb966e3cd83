"""Images of every unusual kind among ordinary ones, and files that are none: from the folder to the batch."""

import dataclasses
import functools
import io
import pickle
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from offsites_jax.data import image as images
from offsites_jax.data.pipeline import Loading, eval_batches, global_batch
from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.image_classification import data, inference
from offsites_jax.projects.image_classification.data_config import DataConfig
from offsites_jax.projects.image_classification.transforms import augment, prepare
from offsites_jax.train.config import load_experiment, resolve

DIGITS = "experiments/image_classification/digits.py"
GREY = 102  # one of the levels of Pillow's standard palette


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated():
    """A wide picture, dark on its left, that asks to be shown upright."""
    pixels, exif = np.full((24, 48, 3), GREY, np.uint8), Image.Exif()
    pixels[:, :24] = 10
    exif[0x0112] = 6
    return encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)


def bomb(side):
    """A PNG of few bytes that says it is that large."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


PLAIN = Image.new("RGB", (40, 30), (GREY,) * 3)
UNUSUAL = {
    "cmyk.jpg": encoded(PLAIN.convert("CMYK"), "JPEG"),
    "grey.jpg": encoded(PLAIN.convert("L"), "JPEG"),
    "palette.png": encoded(PLAIN.convert("P"), "PNG"),
    "sixteen.png": encoded(Image.fromarray(np.full((30, 40), GREY * 257, np.uint16)), "PNG"),
    "two_levels.png": encoded(Image.new("1", (40, 30), 1), "PNG"),
    "clear.png": encoded(Image.new("RGBA", (40, 30), (255, 0, 0, 0)), "PNG"),
    "moving.webp": encoded(
        PLAIN, "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30))], lossless=True
    ),
    "a_png_named.jpg": encoded(PLAIN, "PNG"),
}
EXPECTED = dict.fromkeys(UNUSUAL, GREY) | {"two_levels.png": 255, "clear.png": 128}
BAD = {
    "empty.jpg": (b"", "the image file is empty"),
    "cut.jpg": (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:900], "cannot be decoded"),
    "huge.png": (bomb(60_000), "3600000000 pixels"),
    "page.png": (b"<html>404</html>", "not an image of a known format"),
    "pickle.png": (pickle.dumps({"image": [1, 2]}), "not an image of a known format"),
}


def opened(root, files, **section):
    """The experiment of a folder whose only class holds these files."""
    folder = root / "train" / "only"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    raw = load_experiment(DIGITS).raw
    raw["data"] = {"source": "folder", "path": str(root), "image_size": 16, **section}
    raw["model"]["num_classes"], raw["stages"] = 1, []
    return resolve(raw)


def evaluated(found, size, **loading):
    pipeline = data.create_pipeline(found, "train", train=False)
    (batch,) = eval_batches(pipeline, batch_size=size, shard=(0, 1), loading=Loading(**loading))
    return batch


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_becomes_the_same_pixels(tmp_path, channels):
    mean = [0.0] * channels
    found = opened(tmp_path, UNUSUAL, channels=channels, mean=mean, std=[1.0] * channels)
    batch = evaluated(found, len(UNUSUAL))
    assert batch["image"].shape == (len(UNUSUAL), 16, 16, channels)
    for name, image in zip(sorted(UNUSUAL), batch["image"], strict=True):
        assert np.abs(image.astype(int) - EXPECTED[name]).max() <= 2, name
    trained = global_batch(
        data.create_pipeline(found, "train", train=True), batch_size=len(UNUSUAL), seed=0, step=0
    )
    assert sorted(trained["image"].mean((1, 2, 3)).round(-1)) == sorted(
        batch["image"].mean((1, 2, 3)).round(-1)
    )


def test_an_orientation_is_not_applied_in_training_nor_evaluation():
    """The published recipes read pixels as they are stored."""
    record = {"image": rotated(), "label": np.asarray(0)}
    config = DataConfig(image_size=16, preprocess="whole", flip=False)
    for image in (
        prepare(record, config=config, num_classes=1)["image"],
        augment(record, np.random.default_rng(0), config=config, num_classes=1)["image"],
    ):
        assert image[:, :7].max() < 40, "dark on the left, where an upright picture is dark at the top"
        assert image[:, 9:].min() > 80


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("fast_decode", [False, True])
def test_a_file_that_is_no_image_is_named_in_training(tmp_path, name, fast_decode):
    content, words = BAD[name]
    found = opened(tmp_path, {name: content}, fast_decode=fast_decode)
    pipeline = data.create_pipeline(found, "train", train=True)
    with pytest.raises(DamagedDataError, match=words) as error:
        global_batch(pipeline, batch_size=1, seed=0, step=0)
    assert f"only/{name}" in str(error.value)
    assert 'on_bad_record="skip"' in str(error.value)
    assert "\n" not in str(error.value)


def test_or_is_skipped_masked_and_counted(tmp_path):
    files = {name: content for name, (content, _) in BAD.items()}
    found = opened(tmp_path, {**files, "z_good.png": UNUSUAL["palette.png"]})
    batch = evaluated(found, 8, on_bad_record="skip")
    assert batch["mask"].tolist() == [0] * len(BAD) + [1] + [0] * 2
    trained = global_batch(
        data.create_pipeline(found, "train", train=True),
        batch_size=4, seed=0, step=0, loading=Loading(on_bad_record="skip"),
    )  # fmt: skip
    assert np.abs(trained["image"].astype(int) - GREY).max() <= 2


def test_to_predict_each_has_its_error_and_the_others_their_pixels(tmp_path):
    for name, (content, _) in BAD.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(UNUSUAL["palette.png"])
    raw = load_experiment(DIGITS).raw
    raw["data"], raw["stages"] = {"image_size": 16}, []
    pipeline = data.create_input_pipeline(resolve(raw), [str(tmp_path)])
    like = jax.ShapeDtypeStruct((4, 16, 16, 3), np.uint8)
    rows = {}
    for chunk in inference.read_chunks(pipeline, like):
        for row, name in enumerate(chunk.names):
            rows[name.rpartition("/")[2].split(" ")[0]] = chunk.errors.get(row, chunk.images[row])
    assert sorted(rows) == sorted([*BAD, "good.png"])
    for name, (_, words) in BAD.items():
        assert words in rows[name]
    assert np.abs(rows["good.png"].astype(int) - GREY).max() <= 2


# Decoding at a fraction


def photograph(side=512):
    """A slow gradient, in which position can be read off the colour."""
    y, x = np.mgrid[:side, :side]
    picture = np.stack([255 * y / side, 255 * x / side, 0 * x], axis=2).astype(np.uint8)
    return encoded(Image.fromarray(picture), "JPEG", quality=98, subsampling=0)


def views(section, data, seeds=range(6)):
    """Augmented images, plainly and by `fast_decode`."""
    plain = DataConfig(image_size=24, **section)
    record = {"image": data, "label": np.asarray(0)}
    return [
        np.stack(
            [
                augment(record, np.random.default_rng(seed), config=config, num_classes=1)["image"]
                for seed in seeds
            ]
        ).astype(int)
        for config in (plain, dataclasses.replace(plain, fast_decode=True))
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_fast_decoding_shows_the_same_crops_and_flips(channels, monkeypatch):
    reductions, decode = [], images._decode

    def noting(image, content, reduction):
        reductions.append(reduction)
        return decode(image, content, reduction)

    monkeypatch.setattr(images, "_decode", noting)
    section = {"channels": channels, "crop_area": (0.3, 1.0)}
    plain, fast = views(section, photograph())
    assert set(reductions[:6]) == {1}
    assert set(reductions[6:]) == {8}
    assert plain.shape == fast.shape == (6, 24, 24, channels)
    assert np.abs(plain - fast).max() <= 6
    assert (plain != fast).any(), "it changes pixels, which is why it is off by default"
    assert not DataConfig().fast_decode


def test_fast_decoding_leaves_other_files_pixels_and_evaluation_alone():
    plain, fast = views({}, encoded(PLAIN, "PNG"))
    np.testing.assert_array_equal(plain, fast)
    pixels = np.random.default_rng(0).integers(256, size=(300, 300, 3), dtype=np.uint8)
    plain, fast = views({}, pixels)
    np.testing.assert_array_equal(plain, fast)
    record, config = {"image": photograph(), "label": np.asarray(0)}, DataConfig(image_size=24)
    shown = functools.partial(prepare, record, num_classes=1)
    np.testing.assert_array_equal(
        shown(config=config)["image"], shown(config=dataclasses.replace(config, fast_decode=True))["image"]
    )
