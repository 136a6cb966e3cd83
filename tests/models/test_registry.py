"""Models by name: counts, look-up, overrides and their errors."""

import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import pytest

from offsites_jax.errors import UserError
from offsites_jax.models import coatnet, coatnet_variants, efficientnet, resnet
from offsites_jax.models.efficientnet import EfficientNet
from offsites_jax.models.registry import create_model, list_models, model_info

# Trainable parameters and running statistics. Of EfficientNets, each sum is what google/automl or Keras
# counts, of L2 what timm does. Of CoAtNets 0 to 7 the paper prints parameters rounded, 25M to 2.44B; of all
# others timm counts the same.
COUNTS = {
    "efficientnet_v2_b0": (7_139_704, 60_608),
    "efficientnet_v2_b1": (8_141_052, 71_072),
    "efficientnet_v2_b2": (10_096_086, 82_288),
    "efficientnet_v2_b3": (14_358_406, 109_216),
    "efficientnet_v2_s": (21_458_488, 153_872),
    "efficientnet_v2_m": (54_139_356, 292_032),
    "efficientnet_v2_l": (118_515_272, 512_576),
    "efficientnet_v2_xl": (208_119_808, 777_024),
    "efficientnet_b0": (5_288_548, 42_016),
    "efficientnet_b1": (7_794_184, 62_048),
    "efficientnet_b2": (9_109_994, 67_568),
    "efficientnet_b3": (12_233_232, 87_296),
    "efficientnet_b4": (19_341_616, 125_200),
    "efficientnet_b5": (30_389_784, 172_736),
    "efficientnet_b6": (43_040_704, 224_432),
    "efficientnet_b7": (66_347_960, 310_720),
    "efficientnet_b8": (87_413_142, 380_032),
    "efficientnet_l2": (480_309_308, 1_090_688),
    "coatnet_0": (25_036_820, 13_696),
    "coatnet_1": (42_225_776, 24_064),
    "coatnet_2": (74_684_744, 32_256),
    "coatnet_3": (166_966_264, 48_384),
    "coatnet_4": (275_425_288, 89_856),
    "coatnet_5": (687_052_952, 119_552),
    "coatnet_6": (1_471_125_232, 144_384),
    "coatnet_6_table12": (1_348_435_040, 144_384),
    "coatnet_7": (2_441_972_728, 192_256),
    "coatnet_pico_rw_224": (10_851_364, 8_128),
    "coatnet_nano_rw_224": (15_141_244, 11_584),
    "coatnet_0_rw_224": (27_435_562, 11_584),
    "coatnet_1_rw_224": (41_721_502, 21_952),
    "coatnet_2_rw_224": (73_868_400, 30_080),
    "coatnet_3_rw_224": (181_805_305, 45_120),
    "coatnet_bn_0_rw_224": (27_435_562, 28_864),
    "coatnet_rmlp_nano_rw_224": (15_145_116, 11_584),
    "coatnet_rmlp_0_rw_224": (27_446_074, 11_584),
    "coatnet_rmlp_1_rw_224": (41_691_982, 21_952),
    "coatnet_rmlp_1_rw2_224": (41_724_622, 21_952),
    "coatnet_rmlp_2_rw_224": (73_881_264, 30_080),
    "coatnet_rmlp_2_rw_384": (73_881_264, 30_080),
    "coatnet_rmlp_3_rw_224": (165_152_788, 45_120),
    "resnet_10": (5_418_792, 5_760),
    "resnet_18": (11_689_512, 9_600),
    "resnet_34": (21_797_672, 17_024),
    "resnet_50": (25_557_032, 53_120),
    "resnet_101": (44_549_160, 105_344),
    "resnet_152": (60_192_808, 151_424),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_published(name):
    info = model_info(name)
    assert (info.params, info.stats) == COUNTS[name]


# Side of the images in training and evaluation: of EfficientNetV2 table 4 of the paper and google/automl's
# configuration, of EfficientNet the sizes its checkpoints were published for.
SIZES = {
    "efficientnet_v2_b0": (192, 224),
    "efficientnet_v2_b1": (192, 240),
    "efficientnet_v2_b2": (208, 260),
    "efficientnet_v2_b3": (240, 300),
    "efficientnet_v2_s": (300, 384),
    "efficientnet_v2_m": (384, 480),
    "efficientnet_v2_l": (384, 480),
    "efficientnet_v2_xl": (384, 512),
    "efficientnet_b0": (176, 224),
    "efficientnet_b1": (192, 240),
    "efficientnet_b2": (208, 260),
    "efficientnet_b3": (240, 300),
    "efficientnet_b4": (304, 380),
    "efficientnet_b5": (352, 456),
    "efficientnet_b6": (416, 528),
    "efficientnet_b7": (480, 600),
    "efficientnet_b8": (528, 672),
    "efficientnet_l2": (640, 800),
}


def test_sizes_of_images():
    found = {name: efficientnet.variant(name) for name in list_models("efficientnet_*")}
    assert {name: (one.train_size, one.eval_size) for name, one in found.items()} == SIZES
    for name in list_models("coatnet_*"):
        one = coatnet.variant(name)
        side = 384 if name.endswith("_384") else 224
        assert (one.train_size, one.eval_size) == (side, side)


def test_list_models_by_pattern():
    assert list_models("efficientnet_v2_[sml]") == [f"efficientnet_v2_{size}" for size in "sml"]
    assert list_models("efficientnet_b*") == [f"efficientnet_b{size}" for size in range(9)]
    assert not list_models("no_such*")


def test_every_listed_name_is_a_model():
    for name in list_models():
        assert isinstance(create_model(name), nn.Module)
    assert set(efficientnet.VARIANTS) == set(list_models("efficientnet_*"))
    assert set(coatnet_variants.VARIANTS) == set(list_models("coatnet_*"))
    assert set(resnet.VARIANTS) == set(list_models("resnet_*"))


def test_listing_names_does_not_import_jax():
    code = (
        "import sys; from offsites_jax.models.registry import list_models;"
        "assert list_models(); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_overrides_come_from_a_configuration():
    config = ml_collections.ConfigDict(
        {
            "blocks": ["r1_k3_s1_e1_i8_o8_c1", "r1_k3_s2_e4_i8_o16_se0.25"],
            "head_width": 32,
            "num_classes": 10,
            "dropout_rate": 0,
            "dtype": "bfloat16",
            "norm": {"statistics": "group", "group_size": 16},
        }
    )
    model = create_model("efficientnet_b0", **config)
    assert isinstance(model, EfficientNet)
    assert model.blocks == tuple(config.blocks)
    assert (model.head_width, model.num_classes, model.dropout_rate) == (32, 10, 0)
    assert model.dtype == jnp.bfloat16
    assert (model.norm.statistics, model.norm.group_size) == ("group", 16)
    assert model.norm.momentum == 0.99  # not named, so it stays this family's
    hash(model)


def test_a_model_made_inside_a_module_is_its_child():
    class Detector(nn.Module):
        def setup(self):
            self.backbone = create_model(
                "efficientnet_v2_b0", blocks=["r1_k3_s1_e1_i8_o8_c1"], head_width=8, num_classes=0
            )

        def __call__(self, images):
            return self.backbone(images, train=False)

    variables = jax.eval_shape(Detector().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert set(variables["params"]) == {"backbone"}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("efficientnetv2_s", {}, "no model 'efficientnetv2_s': did you mean efficientnet_v2_s"),
        ("efficientnet_b0", {"drop_rate": 0.1}, "no setting 'drop_rate': did you mean dropout_rate"),
        ("efficientnet_b0", {"norm": {"group": 8}}, "efficientnet_b0.norm has no setting 'group'"),
        ("efficientnet_b0", {"norm": {"group_size": "8"}}, "efficientnet_b0.norm.group_size is '8'"),
        ("efficientnet_b0", {"num_classes": "10"}, "efficientnet_b0.num_classes is '10'"),
        ("efficientnet_b0", {"num_classes": True}, "efficientnet_b0.num_classes is True"),
        ("efficientnet_b0", {"num_classes": 2.5}, "efficientnet_b0.num_classes is 2.5"),
        ("efficientnet_b0", {"dtype": "bfloat17"}, "efficientnet_b0.dtype is 'bfloat17'"),
        ("efficientnet_b0", {"dtype": "int32"}, "efficientnet_b0.dtype is 'int32'"),
        ("efficientnet_b0", {"dropout_rate": 1.5}, "model.dropout_rate is 1.5"),
        ("efficientnet_b0", {"parent": None}, "no setting 'parent'"),
    ],
)
def test_a_wrong_name_or_value_is_the_users_error(name, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        create_model(name, **overrides)
    assert "\n" not in str(raised.value)
