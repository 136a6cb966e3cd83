"""How pixels are normalised belongs to the weights; timm's are listed by tools/golden/timm_pixels.py."""

import json
import pathlib

import pytest

from offsites_jax.export.importers.pixels import describe, pixels_of

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/timm_pixels.json").read_text())
PUBLISHED = [(name, place) for place, names in GOLDEN.items() for name in names]
HALF, CENTRE = (127.5,) * 3, (128.0,) * 3
IMAGENET = (123.675, 116.28, 103.53)


def ours(name):
    """What a network of timm is called here."""
    plain = name.partition(".")[0]
    return plain.removeprefix("tf_").replace("netv2", "net_v2").replace("resnet", "resnet_")


def shares(pixels):
    return " ".join(f"{1000 * value / 255:.0f}" for value in (*pixels.mean, *pixels.std))


@pytest.mark.parametrize(("name", "place"), PUBLISHED)
def test_weights_of_timm_are_known_by_their_names(name, place):
    for path in (f"{name}.safetensors", f"timm/{name}/model.safetensors"):
        assert shares(pixels_of(ours(name), "timm", pathlib.Path("weights", path))) == place
    cache = f"hub/models--timm--{name}/snapshots/0a1b2c/model.safetensors"
    assert shares(pixels_of(ours(name), "timm", pathlib.Path(cache))) == place


@pytest.mark.parametrize(
    ("model", "source", "path", "mean", "preprocess"),
    [
        ("efficientnet_b0", "timm", "in21k/tf_efficientnet_b0_ap-f262efe1.pth", HALF, "v1"),
        ("efficientnet_b0", "timm", "ap/tf_efficientnet_b0_ns-c0e6a31c.pth", IMAGENET, "v1"),
        ("efficientnet_v2_b3", "timm", "tf_efficientnetv2_b3-57773f13.pth", IMAGENET, "v1"),
        ("efficientnet_v2_m", "automl", "efficientnetv2-m-21k.tgz", CENTRE, "v2"),
        ("efficientnet_v2_b1", "automl", "efficientnetv2-b1.tgz", IMAGENET, "v1"),
        ("efficientnet_b4", "automl", "advprop/efficientnet-b4/model.ckpt.index", HALF, "v1"),
        ("efficientnet_b4", "automl", "noisystudent/noisy_student_efficientnet-b4.tgz", IMAGENET, "v1"),
        ("efficientnet_v2_s", "keras", "efficientnetv2-s.h5", CENTRE, "v2"),
        ("efficientnet_v2_b2", "keras", "efficientnetv2-b2.h5", IMAGENET, "v1"),
        ("efficientnet_b7", "keras", "efficientnetb7.h5", IMAGENET, "v1"),
    ],
)
def test_weights_of_others(model, source, path, mean, preprocess):
    found = pixels_of(model, source, pathlib.Path(path))
    assert (found.mean, found.preprocess) == (mean, preprocess)
    assert (found.std == mean) == (mean != IMAGENET)


def test_what_one_trained_oneself_nobody_knows():
    found = pixels_of("coatnet_0", "maxvit", pathlib.Path("mine.index"))
    assert found is None
    assert "as for the model the weights were trained in" in describe(found)


def test_a_configuration_beside_the_file_comes_before_its_name(tmp_path):
    file, beside = tmp_path / "tf_efficientnet_b0.ap_in1k.safetensors", tmp_path / "config.json"
    beside.write_text(json.dumps({"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}))
    found = pixels_of("efficientnet_b0", "timm", file)
    assert (found.mean, found.std) == ((25.5, 51.0, 76.5), (102.0, 127.5, 153.0))
    assert "config.data.mean = (25.5, 51.0, 76.5)" in describe(found)
    beside.write_text(json.dumps({"project": "image_classification", "data": {"mean": [9], "std": [2.5]}}))
    found = pixels_of("efficientnet_b0", "keras", tmp_path / "model.h5")
    assert (found.mean, found.std) == ((9.0,), (2.5,))
    for other in ("[]", "{", '{"pretrained_cfg": {"mean": [1], "std": "no"}}', '{"data": null}', "3"):
        beside.write_text(other)
        assert pixels_of("efficientnet_b0", "timm", file).mean == HALF
