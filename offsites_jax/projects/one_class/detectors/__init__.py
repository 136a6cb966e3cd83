"""What is normal, learned from features: Gaussians, kernels, neighbours, rotation classifiers."""
