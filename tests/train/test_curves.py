"""The picture of a run."""

import numpy as np
from PIL import Image

from offsites_jax.train.curves import chosen, draw_curves, read_series
from offsites_jax.train.writers import MetricsWriter


def test_curves_are_drawn_from_the_log(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20):
            writer.write(step, "train", {"loss": 1 / step, "critic/loss": 2.0, "learning_rate": 0.1})
        writer.write(20, "test", {"accuracy": 0.5})
    series = read_series(tmp_path)
    assert series["train/loss"] == [(10, 0.1), (20, 0.05)]
    assert set(chosen(series, ("loss",))) == {"train/loss", "train/critic/loss"}
    assert "train/time" not in series
    picture = np.asarray(Image.open(draw_curves(tmp_path)))
    assert picture.std() > 5, "something is drawn"
    assert picture.shape[1] > 2.5 * picture.shape[0], "three panels"
