"""Image classification: EfficientNetV2 and other backbones, progressive learning."""
