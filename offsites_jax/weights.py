"""Published weights for our models.

from offsites_jax import weights

variables = weights.load("efficientnet_v2_s", "tf_efficientnetv2_s.safetensors", source="timm")
"""

from offsites_jax.export.importing import load

__all__ = ["load"]
