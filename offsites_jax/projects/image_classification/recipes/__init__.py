"""The published recipes as plain sections, for the files in experiments/image_classification to change."""
