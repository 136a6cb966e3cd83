import numpy as np
import pytest
from scipy import integrate, special
from scipy.spatial import distance

from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.detectors import blockwise
from offsites_jax.projects.one_class.measures.uniformity import (
    uniform_kernel_mean,
    uniformity,
    uniformity_figure,
)


@pytest.mark.parametrize(("dim", "temperature"), [(2, 2.0), (3, 0.7), (16, 2.0), (512, 2.0), (8, 5.0)])
def test_the_mean_under_the_uniform_law_is_the_integral_over_the_angle(dim, temperature):
    def weighted(cosine):
        density = (1 - cosine**2) ** ((dim - 3) / 2) / special.beta(0.5, (dim - 1) / 2)
        return density * np.exp(-2 * temperature * (1 - cosine))

    integral = integrate.quad(lambda angle: weighted(np.cos(angle)) * np.sin(angle), 0, np.pi, epsabs=1e-13)[
        0
    ]
    assert uniform_kernel_mean(dim, temperature) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("temperature", [2.0, 8.0])
def test_both_figures_follow_their_definition(temperature, monkeypatch):
    monkeypatch.setattr(blockwise, "QUERY_ROWS", 16)
    monkeypatch.setattr(blockwise, "TRAIN_ROWS", 10)
    features = np.random.default_rng(0).standard_normal((45, 6)) * 7 + 2
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = np.exp(-temperature * distance.pdist(unit, "sqeuclidean"))
    expected = uniform_kernel_mean(6, temperature)
    alone = uniformity(features, temperature=temperature)
    split = uniformity(features, temperature=temperature, mesh=create_mesh(MeshSettings(data=4, fsdp=2)))
    for found in (alone, split):
        assert found.log_potential == pytest.approx(np.log(pairs.mean()), rel=1e-5, abs=1e-6)
        assert found.uniform_log_potential == pytest.approx(np.log(expected))
        assert found.mmd_squared_unbiased == pytest.approx(pairs.mean() - expected, abs=1e-6)
        every_pair = (2 * pairs.sum() + 45) / 45**2
        assert found.mmd == pytest.approx(np.sqrt(every_pair - expected), rel=1e-5)
        assert found.samples == 45


def test_uniform_points_are_uniform_and_a_cap_is_not():
    rng = np.random.default_rng(0)
    ball = rng.standard_normal((600, 16))
    uniform, cap = uniformity(ball), uniformity(ball + 2)
    assert abs(uniform.mmd_squared_unbiased) < 2e-3
    assert uniform.log_potential == pytest.approx(uniform.uniform_log_potential, abs=0.02)
    assert cap.mmd > 3 * uniform.mmd
    assert cap.log_potential > uniform.log_potential + 0.5


def test_what_has_no_figure_is_refused():
    with pytest.raises(UserError, match="two features or more"):
        uniformity(np.ones((1, 4)))
    with pytest.raises(UserError, match="temperature is 0"):
        uniformity(np.eye(4), temperature=0)
    with pytest.raises(UserError, match="uniformity: 1 of 2 features hold NaN"):
        uniformity(np.array([[1.0, 2], [np.nan, 1]]))


def test_the_figure_has_a_line_a_kind_over_batch_sizes():
    found = [uniformity(np.random.default_rng(seed).standard_normal((30, 4))) for seed in range(3)]
    figure = uniformity_figure({"contrastive": {256: found[0], 32: found[1]}, "augmented": {32: found[2]}})
    line, other = figure.axes[0].lines
    assert line.get_label() == "contrastive"
    np.testing.assert_allclose(line.get_xydata(), [[32, found[1].mmd], [256, found[0].mmd]])
    np.testing.assert_allclose(other.get_xydata(), [[32, found[2].mmd]])
