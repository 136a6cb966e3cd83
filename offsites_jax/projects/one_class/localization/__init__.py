"""Where an image is anomalous: dense scores of windows, GradCAM, integrated gradients."""
