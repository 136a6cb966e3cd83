r"""Which layers to personalise: the lower k, the upper k, parts of the network, or all of it.

    offsites train experiments/euphonia/ablation_layers.py:bottom-3 --workdir workdirs/bottom_3 \
        --config.data.path=/data/speaker --config.init_from.path=gs://BUCKET/base

Variants: bottom-1 … bottom-8, top-1 … top-8, joint, predictor, all; bottom-5 is the default.

Data: recordings of one person, split by phrase.
Pod: v5e:2x2
Expect: bottom-5 is best and overfits least, by Green et al. 2021, who print no table. Not run here.
"""

import ml_collections

from offsites_jax.projects.euphonia import recipes

PARTS = {"joint": ("^joint/",), "predictor": ("^predictor/",), "all": ("^encoder/", "^predictor/", "^joint/")}
VARIANTS = ("bottom-5", *(f"{end}-{k}" for end in ("bottom", "top") for k in range(1, 9)), *PARTS)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    variant = recipes.chosen(argument, VARIANTS)
    return ml_collections.ConfigDict(
        recipes.personal("data/speaker", "workdirs/base", trained=trained(variant))
    )


def trained(variant: str) -> tuple[str, ...]:
    """Patterns of what learns."""
    if variant in PARTS:
        return PARTS[variant]
    end, _, count = variant.partition("-")
    first = 0 if end == "bottom" else recipes.ENCODER_LAYERS - int(count)
    return recipes.layers(first, int(count))
