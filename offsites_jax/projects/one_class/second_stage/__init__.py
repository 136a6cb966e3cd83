"""From a trained network to scores: features, the scorer fitted to them, and both as a bundle."""
