"""Normal against abnormal chest radiographs: labels, splits, training, statistics. Research use only."""
