"""Normal against abnormal chest radiographs, EfficientNet-B0 at 224 pixels, on a workstation without GPU.

    offsites import efficientnet_b0 tf_efficientnet_b0.safetensors --from timm --new-head --output imagenet_b0
    offsites train experiments/chest_xray/cxr_b0_224_cpu.py --workdir workdirs/cxr_b0 \
        --config.data.path=cxr/manifest.csv --config.init_from.path=imagenet_b0/params.safetensors

Variants: manifest (default) and cxr14. A few thousand images fine-tune within a night; it shows whether data
and labels hold before a pod is booked for cxr_b7_600.py.

Data: 16-bit PNGs of `offsites chest_xray convert --size 256`, or ChestX-ray14 as downloaded.
Machine: 0.39 G multiply-adds an image; 5,000 steps of 32 images take hours on 8 cores.
Expect: no published figure for this size. Not run here. Research use only.
"""

import ml_collections

from offsites_jax.projects.chest_xray import recipes

VARIANTS = recipes.SOURCES


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = recipes.detector("efficientnet_b0", 224, argument, batch_size=32, steps=5000)
    config["train"] |= {"checkpoint_every": 250, "eval_every": 250, "ema": {"decay": 0.999}}
    return ml_collections.ConfigDict(config)
