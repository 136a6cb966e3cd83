"""From files to examples: pixels, masks, what is kept out, and files that cannot be read."""

import io
import pickle
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from offsites_jax.data.pipeline import Loading, eval_batches, global_batch, train_batches
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class import data
from offsites_jax.projects.one_class.data import DataConfig, read_all, screen, split_pipeline
from offsites_jax.projects.one_class.readers.sources import create_source
from offsites_jax.projects.one_class.stacking.task import StackConfig
from offsites_jax.projects.one_class.views import transforms

RNG = np.random.default_rng(0)
LOADING = Loading(num_threads=2)


def encode(pixels, suffix="png"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"tif": "TIFF"}.get(suffix, suffix))
    return stream.getvalue()


def photos(folder, count, size=(12, 10)):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((*size, 3), number, np.uint8)
        (folder / f"{number:03d}.png").write_bytes(encode(pixels))
    return folder


def mvtec(root, count=4, size=(12, 10)):
    photos(root / "train" / "good", count, size)
    photos(root / "test" / "good", 2, size)
    photos(root / "test" / "hole", 2, size)
    (root / "ground_truth" / "hole").mkdir(parents=True)
    for number in range(2):
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2, : size[1] // 2] = 255
        (root / "ground_truth" / "hole" / f"{number:03d}_mask.png").write_bytes(encode(mask))
    return root


def test_training_examples_are_whole_images_of_the_models_size(tmp_path):
    config = DataConfig(path=str(mvtec(tmp_path)), image_size=8)
    alone = types.SimpleNamespace(data=config, task=types.SimpleNamespace(stack=StackConfig()))
    pipeline = data.create_pipeline(alone, "train", train=True)
    batch = global_batch(pipeline, batch_size=4, seed=0, step=0)
    assert batch.keys() == {"image", "label", "index"}
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (4, 8, 8, 3))
    assert (batch["label"].dtype, batch["index"].dtype) == (np.int32, np.int32)
    assert sorted(batch["index"]) == [0, 1, 2, 3]
    assert not batch["label"].any()
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])  # photo n is of grey n
    halves = [
        next(train_batches(pipeline, batch_size=4, seed=0, step=0, shard=(i, 2), loading=LOADING))
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate([half["image"] for half in halves]), batch["image"])


def test_evaluation_examples_bring_their_masks(tmp_path):
    config = DataConfig(path=str(mvtec(tmp_path)), image_size=4)
    pipeline = split_pipeline(config, "test")
    (batch,) = eval_batches(pipeline, batch_size=6, shard=(0, 1), loading=LOADING)
    real = batch["mask"] > 0
    assert batch["label"][real].tolist() == [0, 0, 1, 1]
    assert batch["defect"].dtype == np.uint8
    assert batch["defect"][real].sum((1, 2)).tolist() == [0, 0, 4, 4]
    assert batch["defect"][2, :2, :2].all()
    names = create_source(config, "test").names
    assert [names[index] for index in batch["index"][real]][2] == "test/hole/000.png"


def test_photos_are_decoded_once(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        transforms.images, "decode", lambda stored: decoded.append(stored) or np.zeros((4, 4, 3), np.uint8)
    )
    root = photos(tmp_path / "p", 5)
    for cache, times in ((True, 4), (False, 8)):
        decoded.clear()
        pipeline = split_pipeline(DataConfig(path=str(root), image_size=4, cache=cache), "train", train=True)
        for _ in range(2):
            read_all(pipeline)
        assert len(decoded) == times


def test_a_pipeline_can_be_sent_to_a_worker(tmp_path):
    pipeline = split_pipeline(DataConfig(path=str(mvtec(tmp_path)), image_size=8), "train")
    before = read_all(pipeline)
    after = read_all(pickle.loads(pickle.dumps(pipeline)))
    np.testing.assert_array_equal(before["image"], after["image"])
    assert pipeline.source.fingerprint() == pickle.loads(pickle.dumps(pipeline)).source.fingerprint()


def test_copies_of_every_image_are_counted(tmp_path):
    config = DataConfig(path=str(photos(tmp_path / "p", 4)), image_size=4, copies=4, held_out=0.0)
    for cache in (True, False):
        pipeline = split_pipeline(DataConfig(**{**vars(config), "cache": cache}), "train", train=True)
        found = read_all(pipeline)
        assert sorted(zip(found["index"], found["copy"], strict=True)) == [
            (i, c) for i in range(4) for c in range(4)
        ]
        np.testing.assert_array_equal(found["image"][:, 0, 0, 0], found["index"])
    assert len(split_pipeline(config, "train").source) == 4


def test_sixty_good_photos_and_nothing_else(tmp_path):
    config = DataConfig(path=str(photos(tmp_path / "p", 60)), image_size=4)
    train, held = create_source(config, "train"), create_source(config, "validation")
    assert (len(train), len(held)) == (48, 12)
    assert set(train.names) | set(held.names) == {f"{number:03d}.png" for number in range(60)}
    assert not held.labels.any()
    with pytest.raises(UserError, match="nothing to test on"):
        create_source(config, "test")
    (tmp_path / "q" / "train").mkdir(parents=True)
    (tmp_path / "p").rename(tmp_path / "q" / "train" / "good")
    divided = create_source(DataConfig(path=str(tmp_path / "q"), image_size=4), "validation")
    assert divided.names == tuple(f"train/good/{name}" for name in held.names)


def test_holding_out_of_a_divided_folder_is_asked_for(tmp_path):
    root = str(mvtec(tmp_path, count=10))
    assert len(create_source(DataConfig(path=root), "train")) == 10
    with pytest.raises(UserError, match=r"config\.data\.held_out: is 0"):
        create_source(DataConfig(path=root), "validation")
    some = DataConfig(path=root, held_out=0.3)
    assert (len(create_source(some, "train")), len(create_source(some, "validation"))) == (7, 3)


def test_digits_one_against_the_rest():
    config = DataConfig(source="digits", category="4", image_size=8, held_out=0.1)
    train, held, test = (create_source(config, split) for split in ("train", "validation", "test"))
    assert set(train.kinds) == {"4"}
    assert not set(train.names) & set(held.names)
    assert held.labels.mean() == 0.5
    assert ((np.array(test.kinds) == "4") == (test.labels == 0)).all()
    found = read_all(split_pipeline(config, "test"))
    np.testing.assert_array_equal(found["image"], np.repeat(test.images, 3, axis=-1))
    with pytest.raises(UserError, match="no class 'four'"):
        create_source(DataConfig(source="digits", category="four"), "train")


def test_a_celeba_pipeline_cuts_the_face(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[40:198, 10:168] = 90
    (tmp_path / "img_align_celeba" / "1.jpg").write_bytes(encode(pixels, "png"))
    (tmp_path / "list_attr_celeba.txt").write_text("1\nEyeglasses\n1.jpg -1\n")
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 0\n")
    found = read_all(split_pipeline(DataConfig(source="celeba", path=str(tmp_path), image_size=64), "train"))
    assert found["image"].shape == (1, 64, 64, 3)
    assert (found["image"] == 90).all()


GREY = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
GREY_16 = GREY.astype(np.uint16) * 257
ALPHA = np.concatenate([COLOUR, np.full((6, 6, 1), 255, np.uint8)], axis=-1)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        *((encode(GREY, suffix), np.repeat(GREY[..., None], 3, -1)) for suffix in ("png", "bmp", "tif")),
        *((encode(COLOUR, suffix), COLOUR) for suffix in ("png", "bmp", "tif")),
        *((encode(ALPHA, suffix), COLOUR) for suffix in ("png", "tif")),
        *(
            (encode(GREY.astype(np.uint16) * 257, s), np.repeat(GREY[..., None], 3, -1))
            for s in ("png", "tif")
        ),
    ],
)
def test_every_kind_of_file_gives_three_channels_of_8_bits(stored, expected):
    found = transforms.prepare({"content": stored, "path": "x"}, view=transforms.whole, size=6)
    np.testing.assert_array_equal(found["image"], expected)
    assert (found["label"], found["index"]) == (-1, -1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_16_bits_keep_their_upper_8(suffix):
    # Pillow cannot write them, OpenCV can; it keeps blue first.
    stored = cv2.imencode(f".{suffix}", COLOUR[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    found = transforms.prepare({"content": stored}, view=transforms.whole, size=6)
    np.testing.assert_array_equal(found["image"], COLOUR)


def test_files_that_a_user_names(tmp_path):
    folder = photos(tmp_path / "p", 3)
    experiment = types.SimpleNamespace(data=DataConfig(path="unused", image_size=5))
    found = read_all(data.create_input_pipeline(experiment, [str(folder)]))
    assert found["image"].shape == (3, 5, 5, 3)
    assert found["label"].tolist() == [-1, -1, -1]


def test_masks_are_whatever_is_above_0():
    mask = RNG.random((5, 7)) < 0.4
    palette = Image.new("P", mask.shape[::-1])
    palette.putdata(mask.astype(int).ravel().tolist())
    palette.putpalette([200, 10, 10, 0, 0, 0])  # the background is index 0, whatever its colour
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    stored = [
        encode(mask.astype(np.uint8) * 255),
        encode(mask.astype(np.uint8)),
        encode(mask.astype(np.uint16)),
        encode(mask.astype(np.uint16) * 65535, "tif"),
        encode(mask),
        encode(np.repeat(mask[..., None] * np.uint8(255), 3, -1)),
        encode(mask.astype(np.uint8) * 255, "bmp"),
        stream.getvalue(),
    ]
    for one in stored:
        np.testing.assert_array_equal(transforms.decode_mask(one), mask)


def test_masks_that_are_none():
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    for stored, message in (
        (encode(ramp), "has 64 values"),
        (encode(red), "colour picture"),
        (b"nothing", "cannot be decoded"),
    ):
        with pytest.raises(DamagedDataError, match=message):
            transforms.decode_mask(stored)


def test_nearest_neighbour_takes_the_pixel_under_the_centre():
    mask = RNG.random((9, 6)) < 0.5
    pillow = Image.fromarray(mask.astype(np.uint8)).resize((4, 4), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(transforms.nearest_neighbour(mask, 4), np.asarray(pillow) > 0)
    np.testing.assert_array_equal(
        transforms.nearest_neighbour(mask[:6], 12), mask[:6].repeat(2, 0).repeat(2, 1)
    )


def test_images_shrink_with_antialiasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = transforms.whole(stripes, 16)
    assert abs(found[:, 2:-2].astype(int) - 127).max() < 10  # without, it would be all black or white


def test_a_mask_of_another_size_names_both(tmp_path):
    root = mvtec(tmp_path)
    (root / "ground_truth" / "hole" / "001_mask.png").write_bytes(encode(np.zeros((12, 11), np.uint8)))
    with pytest.raises(DamagedDataError) as caught:
        read_all(split_pipeline(DataConfig(path=str(root), image_size=8), "test"))
    assert "the mask is of 11 x 12 pixels, the image of 10 x 12" in str(caught.value)
    assert "hole/001.png" in str(caught.value)


@pytest.mark.parametrize("cache", [True, False])
def test_bad_files_stop_the_run_or_are_listed(tmp_path, cache):
    root = mvtec(tmp_path, count=6)
    whole = (root / "train" / "good" / "002.png").read_bytes()
    (root / "train" / "good" / "002.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "good" / "004.png").write_bytes(b"")
    pipeline = split_pipeline(DataConfig(path=str(root), image_size=8, cache=cache), "train", train=True)
    with pytest.raises(DamagedDataError, match=r"002\.png"):
        read_all(pipeline)
    kept, bad = screen(pipeline)
    assert [one.position for one in bad] == [2, 4]
    assert "good/004.png" in bad[1].name
    assert bad[1].reason == "the image file is empty"
    found = read_all(kept)
    assert found["index"].tolist() == [0, 1, 3, 5]
    assert found["image"][:, 0, 0, 0].tolist() == [0, 1, 3, 5]
    assert kept.source.fingerprint() != pipeline.source.fingerprint()
    assert "005.png" in kept.source.describe(3)


def test_nothing_but_bad_files(tmp_path):
    folder = photos(tmp_path / "p", 2)
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 2 images can be read; the first: .*000\.png"):
        screen(split_pipeline(DataConfig(path=str(folder), held_out=0.0), "train"))


def test_a_missing_file_of_a_table_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,split,label\ngone.png,train,0\n")
    with pytest.raises(DamagedDataError, match=r"gone\.png cannot be read"):
        read_all(split_pipeline(DataConfig(source="table", path=str(tmp_path / "t.csv")), "train"))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"source": "mvtec"}, r"data\.path: mvtec needs"),
        ({"source": "digits", "held_out": 1.0}, r"data\.held_out: is 1\.0"),
        ({"source": "digits", "image_size": 0}, r"data\.image_size: is 0"),
        ({"source": "digits", "split_seed": -1}, r"data\.split_seed"),
    ],
)
def test_wrong_settings_are_named(section, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**section)
