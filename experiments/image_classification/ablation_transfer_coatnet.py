"""How well C-C-T-T and C-T-T-T transfer: pre-trained on a large table of images, then tuned on ImageNet-1k.

    offsites train experiments/image_classification/ablation_transfer_coatnet.py:cctt \
        --workdir gs://BUCKET/table_cctt --config.data.path=/data/mine --config.model.num_classes=18000
    offsites train experiments/image_classification/ablation_transfer_coatnet.py:cctt-384 \
        --workdir gs://BUCKET/cctt_384 --config.init_from.path=gs://BUCKET/table_cctt

Variants: cctt (default), cttt; and to fine-tune {cctt, cttt}-{224, 384}. arXiv 2106.04803, section 2.2, by
which C-C-T-T was chosen. The paper used JFT and does not print size and recipe of these networks: here they
are CoAtNet-2's (74.7 and 75.6 million parameters), with the settings that table 10 has for CoAtNet-3 on JFT.

Data: as table_coatnet.py.
Pod: v5e:16x16
Cost: docs/plan.md
Expect: figures of your own; from JFT 82.39 (cctt) and 81.78 % (cttt) at 224 pixels, 84.23 and 84.02 % at 384,
where precision at 1 on JFT itself was 34.40 and 34.36 % (section 2.2). Not run here.
"""

import ml_collections

from offsites_jax.projects.image_classification.recipes import coatnet
from offsites_jax.projects.image_classification.recipes.shared import Config, chosen, expect

IMAGES, CLASSES = 300_000_000, 18_000
ACCURACY = {("cctt", 224): 0.8239, ("cttt", 224): 0.8178, ("cctt", 384): 0.8423, ("cttt", 384): 0.8402}
VARIANTS = ("cctt", "cttt", *(f"{layout}-{pixels}" for layout, pixels in ACCURACY))


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    layout, _, pixels = chosen(argument, VARIANTS).partition("-")
    return ml_collections.ConfigDict(tuned(layout, int(pixels)) if pixels else pretrained(layout))


def pretrained(layout: str) -> Config:
    return laid_out(coatnet.scratch_table("3", IMAGES, CLASSES), layout)


def tuned(layout: str, pixels: int) -> Config:
    config = laid_out(coatnet.fine_tuned_table("3", pixels), layout)
    config["init_from"]["path"] = f"workdirs/table_{layout}"
    return expect(config, ACCURACY[layout, pixels], f"{coatnet.PAPER}, section 2.2, pre-trained on JFT")


def laid_out(config: Config, layout: str) -> Config:
    """CoAtNet-2 with stages of these kinds, in place of CoAtNet-3."""
    config["model"]["name"] = "coatnet_2"
    config["model"]["overrides"] |= {"layout": layout, "conv": {"downsample": "conv1x1"}}
    return config
