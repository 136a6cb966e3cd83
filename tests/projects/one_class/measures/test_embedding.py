import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.embedding import embed, embedding_figure


def make_groups():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8) * 10
    return {
        name: (centre + rng.standard_normal((count, 8))) * rng.uniform(1, 9, (count, 1))
        for name, centre, count in zip(("normal", "anomaly", "CutPaste"), centres, (40, 20, 10), strict=True)
    }


def test_groups_that_point_elsewhere_lie_apart_whatever_their_length():
    found = embed(make_groups(), perplexity=10)
    points = np.concatenate(list(found.points.values()))
    labels = np.repeat(np.arange(3), [len(group) for group in found.points.values()])
    assert [len(group) for group in found.points.values()] == [40, 20, 10]
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
    assert (labels[distances.argmin(1)] == labels).mean() > 0.95
    again = embed(make_groups(), perplexity=10)
    np.testing.assert_array_equal(np.concatenate(list(again.points.values())), points)


def test_of_many_points_each_group_keeps_its_share():
    found = embed(make_groups(), max_points=35)
    assert [len(group) for group in found.points.values()] == [20, 10, 5]
    assert found.perplexity == pytest.approx(34 / 3)  # 30 neighbours would be nearly all there are


def test_the_figure_shows_every_group_in_a_colour_of_its_own():
    found = embed(make_groups(), max_points=35)
    figure = embedding_figure(found)
    drawn = figure.axes[0].collections
    assert [dots.get_label() for dots in drawn] == ["normal (20)", "anomaly (10)", "CutPaste (5)"]
    np.testing.assert_allclose(drawn[1].get_offsets(), found.points["anomaly"])
    assert len({tuple(dots.get_facecolor()[0]) for dots in drawn}) == 3


def test_groups_that_cannot_share_a_plane_are_refused():
    with pytest.raises(UserError, match=r"features of \[4, 5\] columns"):
        embed({"a": np.eye(5), "b": np.eye(4)})
    with pytest.raises(UserError, match=r"t-SNE of a: .* hold NaN"):
        embed({"a": np.full((6, 2), np.nan)})
    with pytest.raises(UserError, match="give five or more"):
        embed({"a": np.eye(4)})
