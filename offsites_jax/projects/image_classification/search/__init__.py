"""Training-aware architecture search and non-uniform scaling: arXiv 2104.00298, section 3.3."""
