"""Two-stage one-class classification: self-supervised representations, CutPaste, scorers."""
