import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance, mixture, neighbors, preprocessing, svm

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class.detectors import blockwise
from offsites_jax.projects.one_class.detectors.gaussian import Gaussian
from offsites_jax.projects.one_class.detectors.kernel import gamma_of
from offsites_jax.projects.one_class.scorers import ScorerSettings, ensemble, fit, load, save

TRAIN, TEST, DIM = 83, 37, 12


def make_features(count, seed, dim=DIM):
    """Correlated, all positive as after a ReLU, with lengths far from 1."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((dim, dim)) * np.geomspace(1, 0.05, dim)
    return np.maximum(rng.standard_normal((count, dim)) @ mix + 1.5, 0).astype(np.float32) * 3


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Several chunks of queries and several blocks of rows on every device, in all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "QUERY_ROWS", 16)
        patch.setattr(blockwise, "TRAIN_ROWS", 10)
        yield


@pytest.fixture(scope="module")
def train():
    return make_features(TRAIN, 0)


@pytest.fixture(scope="module")
def test():
    return make_features(TEST, 1)


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(MeshSettings(data=4, fsdp=2))


def unit(features):
    return preprocessing.normalize(features.astype(np.float64))


def gamma_rule(features):
    return 10 / (features.shape[1] * unit(features).var())


def kde_by_sklearn(train, test):
    gamma = gamma_rule(train)
    density = neighbors.KernelDensity(bandwidth=1 / np.sqrt(2 * gamma)).fit(unit(train))
    constant = -0.5 * DIM * np.log(np.pi / gamma) - np.log(len(train))
    return -2 - (density.score_samples(unit(test)) - constant) / gamma


def ocsvm_by_sklearn(train, test):
    fitted = svm.OneClassSVM(kernel="rbf", gamma=gamma_rule(train)).fit(unit(train))
    return -fitted.score_samples(unit(test))


def linear_by_sklearn(train, test):
    return -svm.OneClassSVM(kernel="linear").fit(train).score_samples(test)


def ledoit_wolf_by_sklearn(train, test):
    return 0.5 * covariance.LedoitWolf().fit(unit(train)).mahalanobis(unit(test))


def full_by_sklearn(train, test):
    fitted = mixture.GaussianMixture(1, covariance_type="full", reg_covar=1e-6).fit(unit(train))
    log_det = np.linalg.slogdet(fitted.covariances_[0])[1]
    return -fitted.score_samples(unit(test)) - 0.5 * (DIM * np.log(2 * np.pi) + log_det)


def mixture_by_sklearn(train, test):
    fitted = mixture.GaussianMixture(3, covariance_type="full", reg_covar=1e-6, random_state=5).fit(
        unit(train)
    )
    return -fitted.score_samples(unit(test))


def neighbours_by_sklearn(neighbours):
    def scores(train, test):
        index = neighbors.NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(
            train.astype(np.float64)
        )
        return index.kneighbors(test.astype(np.float64))[0].mean(axis=1)

    return scores


REFERENCES = {
    "kde": (ScorerSettings("kde"), kde_by_sklearn, 1e-5),
    "ocsvm": (ScorerSettings("ocsvm"), ocsvm_by_sklearn, 1e-5),
    "ocsvm_linear": (ScorerSettings("ocsvm_linear"), linear_by_sklearn, 1e-5),
    "ledoit_wolf": (ScorerSettings("gde"), ledoit_wolf_by_sklearn, 1e-5),
    "full": (ScorerSettings("gde", covariance="full"), full_by_sklearn, 1e-3),
    "gmm": (ScorerSettings("gmm", components=3, seed=5), mixture_by_sklearn, 1e-3),
    "knn": (ScorerSettings("knn"), neighbours_by_sklearn(1), 1e-5),
    "knn of 4": (ScorerSettings("knn", neighbours=4), neighbours_by_sklearn(4), 1e-5),
}


@pytest.fixture(scope="module")
def fitted(train):
    return {name: fit(settings, train) for name, (settings, _, _) in REFERENCES.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_scores_are_those_of_scikit_learn(name, fitted, train, test):
    _, reference, tolerance = REFERENCES[name]
    scores = fitted[name].score(test)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(train, test), rtol=tolerance)


@pytest.mark.parametrize("name", REFERENCES)
def test_eight_devices_give_the_same_scores(name, fitted, test, mesh):
    np.testing.assert_allclose(fitted[name].score(test, mesh), fitted[name].score(test), rtol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_pure_function_agrees_and_has_the_gradient_of_the_reference(name, fitted, train, test):
    _, reference, _ = REFERENCES[name]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(features, scorer):
        scores = scorer.apply(features)
        return scores.sum(), scores

    (_, scores), gradient = total(jnp.asarray(test[:3]), fitted[name])
    np.testing.assert_allclose(scores, fitted[name].score(test)[:3], rtol=1e-5)
    step = np.random.default_rng(3).standard_normal((3, DIM))
    ahead, behind = (reference(train, test[:3] + sign * 1e-4 * step) for sign in (1, -1))
    np.testing.assert_allclose((gradient * step).sum(1), (ahead - behind) / 2e-4, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_saved_scorer_scores_the_same(name, fitted, test, tmp_path):
    save(fitted[name], tmp_path / "run.1" / "scorer")
    loaded = load(tmp_path / "run.1" / "scorer")
    assert type(loaded) is type(fitted[name])
    assert loaded.about == fitted[name].about
    np.testing.assert_array_equal(loaded.score(test), fitted[name].score(test))
    assert sorted(file.name for file in (tmp_path / "run.1").iterdir()) == ["scorer.json", "scorer.npz"]


def test_gamma_is_ten_times_the_scale_of_scikit_learn(train):
    features = unit(train)
    scale = svm.SVC(gamma="scale").fit(features, np.arange(TRAIN) % 2)._gamma
    assert gamma_of(features.astype(np.float32)) == pytest.approx(10 * scale, rel=1e-6)


def test_a_near_copy_of_a_training_image_keeps_its_tiny_distance(train, mesh):
    rng = np.random.default_rng(0)
    wide = rng.random((TRAIN, 300)).astype(np.float32)
    copies = wide[:20] + 3e-4 * rng.standard_normal((20, 300)).astype(np.float32)
    expected = 1 - (unit(copies) * unit(wide[:20])).sum(1)
    assert expected.max() < 1e-6
    scorer = fit(ScorerSettings("knn"), wide)
    np.testing.assert_allclose(scorer.score(copies, mesh), expected, rtol=2e-4)


def test_fewer_images_than_columns_or_devices(mesh, caplog):
    few, others = make_features(5, 3, dim=40), make_features(6, 4, dim=40)
    scorer = fit(ScorerSettings("gde"), few)
    assert "5 training features of 40 columns" in caplog.text
    np.testing.assert_allclose(scorer.score(others, mesh), ledoit_wolf_by_sklearn(few, others), rtol=1e-5)
    scores = fit(ScorerSettings("knn", neighbours=5), few).score(others, mesh)
    np.testing.assert_allclose(scores, neighbours_by_sklearn(5)(few, others), rtol=1e-5)
    kde = fit(ScorerSettings("kde"), few)
    np.testing.assert_allclose(kde.score(others, mesh), kde.score(others), rtol=2e-6)


def test_which_covariance_is_reported(fitted):
    assert "Ledoit-Wolf covariance, shrinkage 0." in fitted["ledoit_wolf"].about
    assert "full covariance + 1e-06" in fitted["full"].about
    assert fitted["knn of 4"].about.startswith("knn, fitted to 83 features of 12 columns; 4 neighbours")


def test_ledoit_wolf_shrinks_as_scikit_learn(train):
    scorer = fit(ScorerSettings("gde", normalize=False), train)
    reference = covariance.LedoitWolf().fit(train.astype(np.float64))
    assert float(scorer.shrinkage) == pytest.approx(reference.shrinkage_, rel=1e-6)
    np.testing.assert_allclose(
        scorer.cholesky @ scorer.cholesky.T, reference.covariance_, rtol=1e-4, atol=1e-5
    )


def test_more_images_than_the_limit_are_drawn_by_seed(train):
    drawn = [fit(ScorerSettings("knn", max_samples=20, seed=seed), train) for seed in (0, 0, 1)]
    rows = [{row.tobytes() for row in scorer.train} for scorer in drawn]
    assert len(rows[0]) == 20
    assert rows[0] == rows[1] != rows[2]
    everything = {row.tobytes() for row in fit(ScorerSettings("knn"), train).train}
    assert rows[0] < everything
    assert int(drawn[0].samples) == 20


@pytest.mark.parametrize(
    ("settings", "features", "message"),
    [
        ({}, np.full((5, 3), np.nan), r"5 of 5 features hold NaN or infinity, the first in row 0"),
        ({}, np.ones((5, 3)), "all 5 training features are the same"),
        ({}, np.ones((1, 3)), "1 training features, but it needs 2"),
        ({}, np.ones((5, 3), int), r"features of int64\[5, 3\]; give floats"),
        ({}, np.ones((5, 3, 2)), r"float64\[5, 3, 2\]; give floats \[count, columns\]"),
        ({"name": "knn", "neighbours": 9}, np.eye(5), "5 training features, but it needs 9"),
        ({"name": "knn", "neighbours": 0}, np.eye(5), "neighbours is 0; give 1 or more"),
        ({"name": "gmm", "components": 0}, np.eye(5), "components is 0"),
        ({"name": "ocsvm", "nu": 1.5}, np.eye(5), "nu is 1.5"),
        ({"name": "kde", "gamma": -1.0}, np.eye(5), "gamma is -1.0"),
        ({"name": "svm"}, np.eye(5), "scorer 'svm' is unknown; known: ocsvm"),
        ({"max_samples": 1}, np.eye(5), "max_samples is 1"),
    ],
)
def test_what_cannot_be_fitted_says_why(settings, features, message):
    with pytest.raises(UserError, match=message):
        fit(ScorerSettings(**settings), features)


def test_features_of_another_layer_are_refused(fitted, test):
    with pytest.raises(UserError, match="kde scorer: features have 11 columns but it was fitted to 12"):
        fitted["kde"].score(test[:, :11])
    broken = test.copy()
    broken[4, 2] = np.inf
    with pytest.raises(UserError, match="1 of 37 features hold NaN or infinity, the first in row 4"):
        fitted["full"].score(broken)
    assert fitted["kde"].score(test[:0]).shape == (0,)


def test_a_score_that_overflows_is_an_error(train):
    scorer = Gaussian.fit(train, normalize=False)
    with pytest.raises(UserError, match="gde scorer: the score of row 1 is not finite"):
        scorer.score(np.stack([train[0], np.full(DIM, 3e38, np.float32)]))


def damage(folder, **changes):
    """Edits the JSON, keeping it well-formed."""
    about = json.loads((folder / "s.json").read_text())
    (folder / "s.json").write_text(json.dumps(about | changes))


def test_broken_files_are_named(fitted, tmp_path):
    with pytest.raises(UserError, match=r"s\.json: no such file"):
        load(tmp_path / "s")
    save(fitted["kde"], tmp_path / "s")
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(whole[:-200] + bytes(200))
    with pytest.raises(DamagedDataError, match=r"s\.npz: is not the file that s\.json describes"):
        load(tmp_path / "s")
    (tmp_path / "s.npz").write_bytes(whole)
    damage(tmp_path, settings={"nu": 0.5})
    with pytest.raises(DamagedDataError, match=r"settings .* are not those of a kde scorer"):
        load(tmp_path / "s")
    damage(tmp_path, kind="pickle")
    with pytest.raises(UserError, match="unknown kind of scorer 'pickle'"):
        load(tmp_path / "s")
    damage(tmp_path, format=99)
    with pytest.raises(UserError, match="format 99 is newer"):
        load(tmp_path / "s")
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(DamagedDataError, match="does not describe a scorer"):
        load(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cholesky": np.eye(11, dtype=np.float32)}, r"cholesky of shape \[11, 11\] is not \[dim, dim\]"),
        ({"mean": np.full(DIM, np.nan, np.float32)}, "array mean is no finite float32"),
        ({"mean": np.zeros(DIM)}, "array mean is no finite float32"),
        ({"normalize": 3}, "a setting is wrong"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message, fitted, tmp_path):
    save(dataclasses.replace(fitted["full"], **change), tmp_path / "s")
    with pytest.raises(DamagedDataError, match=message):
        load(tmp_path / "s")


def test_pickled_arrays_are_not_even_tried(fitted, tmp_path):
    import hashlib

    save(fitted["kde"], tmp_path / "s")
    np.savez(tmp_path / "s.npz", train=np.array([{}], object), gamma=np.float32(1), samples=np.int32(1))
    damage(tmp_path, sha256=hashlib.sha256((tmp_path / "s.npz").read_bytes()).hexdigest())
    with pytest.raises(DamagedDataError, match=r"does not hold arrays .*allow_pickle"):
        load(tmp_path / "s")


def test_an_unwritable_folder_is_one_line(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"s.npz: cannot be written \(.*\); free some space"):
        save(fitted["kde"], tmp_path / "file" / "s")


def test_rotation_scores_follow_their_definition(mesh):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((9, 4, 4)) * 4
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    upright = fit(ScorerSettings("logit"), logits[:, 0]).score(logits[:, 0], mesh)
    np.testing.assert_allclose(upright, 1 - share[:, 0, 0], rtol=1e-5)
    all_four = fit(ScorerSettings("dscore"), logits).score(logits, mesh)
    np.testing.assert_allclose(all_four, 1 - share[:, range(4), range(4)].prod(1), rtol=1e-5)


def test_rotation_scores_stay_exact_where_the_classifier_is_sure():
    sure = np.zeros((2, 4, 4))
    sure[0, range(4), range(4)] = 30.0
    sure[1, :, 1] = 200.0  # hopeless: the wrong class for three of them
    upright, four = (
        fit(ScorerSettings(name), logits) for name, logits in (("logit", sure[:, 0]), ("dscore", sure))
    )
    assert upright.score(sure[:, 0])[0] == pytest.approx(3 * np.exp(-30), rel=1e-5)
    assert four.score(sure)[0] == pytest.approx(12 * np.exp(-30), rel=1e-5)
    assert four.score(sure)[1] == 1
    with pytest.raises(UserError, match="4 rotations, 4 classes"):
        four.score(sure[:, 0])


def test_rotation_scorers_are_saved_too(tmp_path):
    save(fit(ScorerSettings("dscore"), np.zeros((3, 4, 4))), tmp_path / "s")
    assert load(tmp_path / "s").about == "dscore, fitted to 3 features of 16 columns"


def test_an_ensemble_is_the_mean_of_raw_or_standardised_scores():
    rng = np.random.default_rng(0)
    scores, normal = rng.random((3, 8)) * [[1], [10], [100]], rng.random((3, 50)) * [[1], [10], [100]]
    np.testing.assert_allclose(ensemble(scores), scores.mean(0), rtol=1e-6)
    expected = np.mean([(s - n.mean()) / n.std() for s, n in zip(scores, normal, strict=True)], axis=0)
    np.testing.assert_allclose(ensemble(scores, normal), expected, rtol=1e-5)
    with pytest.raises(UserError, match="cannot standardise those of 3 models"):
        ensemble(scores, normal[:2])
    with pytest.raises(UserError, match=r"give \[models, images\]"):
        ensemble(scores[0])
