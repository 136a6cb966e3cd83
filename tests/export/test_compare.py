import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.errors import UserError
from offsites_jax.export.compare import compare, difference


def test_live_model_and_export_agree_on_sharded_batches(toy, finished):
    """Batches as an evaluation delivers them: spread over eight devices, with labels and a mask."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    batches = [
        jax.device_put({**toy.batch(8, seed), "mask": np.ones(8), "label": np.zeros(8)}, spread)
        for seed in range(3)
    ]
    live = jax.jit(lambda batch: toy.predict(toy.variables(), batch))
    found = compare(finished, live, batches)
    assert set(found) == {"logits", "hidden"}
    assert max(found.values()) <= 1e-5


def test_largest_difference_over_all_batches(toy, finished):
    """The live side is off by twice the seed in one row of each batch."""

    def live(batch):
        outputs = {name: np.array(value) for name, value in toy.predict(toy.variables(), batch).items()}
        outputs["logits"][1, 2] -= batch["offset"]
        return outputs

    batches = [{**toy.batch(4, seed), "offset": np.float32(offset)} for seed, offset in enumerate((0, 2, 1))]
    found = compare(finished, live, batches)
    assert found["logits"] == pytest.approx(2, abs=1e-5)
    assert found["hidden"] == pytest.approx(0, abs=1e-6)


def test_nothing_to_compare(toy, finished):
    with pytest.raises(UserError, match="no batch"):
        compare(finished, lambda batch: {}, [])
    with pytest.raises(UserError, match=r"gives \['hidden', 'logits'\], the live model \['other'\]"):
        compare(finished, lambda batch: {"other": np.zeros(2)}, [toy.batch(2)])


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([1.0, 2.0], [1.5, -2.0], 4),
        ([INF, -INF, NAN], [INF, -INF, NAN], 0),
        ([INF, 0], [-INF, 0], INF),
        ([NAN, 0], [0, 0], INF),
        ([0, 0], [NAN, 0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0),
    ],
)
def test_difference(found, wanted, expected):
    assert difference(np.array(found, float), np.array(wanted, float)) == expected


def test_difference_of_other_types():
    assert difference(np.array([0, 255], np.uint8), np.array([255, 0], np.uint8)) == 255
    assert difference(np.array([True]), np.array([False])) == 1
    assert difference(np.array([3 + 4j]), np.array([0j])) == 5
    assert difference(np.zeros(2, np.float32), np.zeros(2, np.float64)) == INF
