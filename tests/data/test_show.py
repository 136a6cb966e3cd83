"""Batches as pictures and sound."""

import wave

import numpy as np
from PIL import Image

from offsites_jax.data.show import contact_sheet, describe_batch, write_batch


def test_a_batch_is_written_as_what_it_is(tmp_path):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (20, 64, 64, 3), dtype=np.uint8),
        "audio": np.sin(np.arange(1600) / 10)[None].astype(np.float32),
        "label": np.arange(20),
    }
    files = write_batch(batch, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["audio_0.wav", "batch.npz", "image.png"]
    assert len(files) == 3
    sheet = np.asarray(Image.open(tmp_path / "out" / "image.png"))
    assert sheet.shape == (2 * 66, 16 * 66, 3)
    np.testing.assert_array_equal(sheet[67:131, 67:131], batch["image"][17])
    with wave.open(str(tmp_path / "out" / "audio_0.wav")) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16000, 1600)
    with np.load(tmp_path / "out" / "batch.npz") as arrays:
        np.testing.assert_array_equal(arrays["label"], batch["label"])


def test_small_images_are_enlarged():
    assert contact_sheet(np.zeros((3, 16, 16, 1), np.uint8)).size == (3 * 66, 66)


def test_equal_batches_have_equal_digests():
    a, b = {"x": np.arange(4.0)}, {"x": np.arange(4.0)}
    assert describe_batch(a) == describe_batch(b)
    b["x"][2] += 1e-12
    assert describe_batch(a)[0]["digest"] != describe_batch(b)[0]["digest"]
