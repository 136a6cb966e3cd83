"""Artifacts decoded by other readers than the code that wrote them."""

import io
import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import wavfile

from offsites_jax.train.media import (
    encode_audio,
    encode_figure,
    encode_image,
    encode_table,
    encode_video,
    strict,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_images_come_back_exactly(shape):
    pixels = RNG.integers(0, 256, shape, np.uint8)
    media = encode_image(pixels)
    found = np.asarray(Image.open(io.BytesIO(media.content)))
    np.testing.assert_array_equal(found, pixels.squeeze())
    assert media.size == (4, 6, shape[2] if len(shape) == 3 else 1)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), np.zeros(3, np.uint8)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(TypeError, match="give uint8"):
        encode_image(image)


def test_figures_have_the_size_they_say():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    media = encode_figure(figure)
    assert Image.open(io.BytesIO(media.content)).size == (media.size[1], media.size[0])
    assert media.size == (220, 330, 4)


def test_videos_keep_frames_and_pace():
    frames = np.stack([np.full((4, 6, 3), shade, np.uint8) for shade in (0, 85, 170, 255)])
    media = encode_video(frames, rate=20)
    video = Image.open(io.BytesIO(media.content))
    assert video.n_frames == 4
    for index, frame in enumerate(frames):
        video.seek(index)
        np.testing.assert_array_equal(np.asarray(video.convert("RGB")), frame)
        assert video.info["duration"] == 50


@pytest.mark.parametrize("channels", [(), (2,)])
def test_sound_comes_back_within_a_quantum_and_clips(channels):
    samples = RNG.uniform(-1.5, 1.5, (160, *channels)).astype(np.float32)
    samples[3] = math.nan
    media = encode_audio(samples, 16_000)
    rate, found = wavfile.read(io.BytesIO(media.content))
    wanted = np.clip(np.nan_to_num(samples), -1, 1)
    assert rate == 16_000
    np.testing.assert_allclose(found / 32767, wanted, atol=0.5 / 32767 + 1e-6)
    assert media.size == (16_000, channels[0] if channels else 1, 160)


def test_long_tables_are_whole_in_the_file_and_cut_on_screen():
    media = encode_table([{"index": index, "note": "two\nlines"} for index in range(500)])
    assert media.content.count(b"two\nlines") == 500
    assert media.markdown.count("two lines") == 100


def test_strict_reaches_into_everything():
    value = {1: (np.float64(math.inf), [np.array([1.0, math.nan])]), "ok": np.int32(3), "none": None}
    assert json.loads(json.dumps(strict(value), allow_nan=False)) == {
        "1": ["Infinity", [[1.0, "NaN"]]],
        "ok": 3,
        "none": None,
    }
