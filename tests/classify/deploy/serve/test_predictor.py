"""Predictor: the predictions of `predict`, similar examples as scikit-learn finds them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from classify.deploy.predict import InputFile, predict
from classify.deploy.serve.predictor import N_SIMILAR, Predictor
from classify.errors import BundleError
from classify.io.bundle_extras import load_examples
from classify.jobs.fit import fit


def inputs(*paths: Path, entry: str | None = None, problem: str = ""):
    return [InputFile(file=path, path=path.name, entry=entry or path.name, problem=problem) for path in paths]


@pytest.fixture
def painted(coloured, tmp_path):
    """Write pictures of these colours."""

    def paint(*colours):
        paths = [tmp_path / f"{k}.png" for k in range(len(colours))]
        for path, colour in zip(paths, colours, strict=True):
            path.write_bytes(coloured.picture(colour))
        return paths

    return paint


COLOURS = [(230, 30, 60), (90, 200, 10), (5, 5, 250), (120, 119, 121), (255, 255, 0)]


def test_repeated_predictions_are_those_of_predict(bundle, network, painted, monkeypatch):
    paths = painted(*COLOURS)
    with Predictor(bundle, workers=1) as predictor:
        found = [
            prediction.grade
            for _ in range(2)
            for prediction in predictor.predict(inputs(*paths), list("abcde"))
        ]

    def image_features(files, config, **options):
        from featurize.extraction.inference import FeatureReader

        with FeatureReader(config, workers=1) as reader:
            return reader.features(files)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    expected = predict(bundle, paths).grades
    assert [(one.grade, one.probabilities) for one in found] == [
        (one.grade, one.probabilities) for one in expected
    ] * 2
    assert {one.grade for one in expected} == {"award", "low", "middle"}


def test_similar_examples_are_the_neighbors_of_scikit_learn(bundle_with_examples, network, painted, store):
    examples = load_examples(Predictor(bundle_with_examples).bundle)
    fitted = np.array([[float(c) for c in row] for row in _fitted(store)])
    search = NearestNeighbors(n_neighbors=N_SIMILAR, metric="cosine", algorithm="brute").fit(fitted)
    distance, index = search.kneighbors(np.array(COLOURS, dtype=float))
    with Predictor(bundle_with_examples, workers=1) as predictor:
        predictions = predictor.predict(inputs(*painted(*COLOURS)), list("abcde"))
    for prediction, near, far in zip(predictions, index, distance, strict=True):
        # Examples are stored in half precision: nearly equal similarities may change places.
        np.testing.assert_allclose([one.similarity for one in prediction.similar], 1 - far, atol=2e-3)
        clear = np.flatnonzero(np.diff(far, append=1) > 4e-3)
        for end in clear:
            assert {one.example for one in prediction.similar[: end + 1]} == set(near[: end + 1])
        for one in prediction.similar:
            assert one.name == examples.names[one.example]
            assert one.name.startswith(one.grade)  # file names begin with the grade


def _fitted(store):
    """Return the features of the fitted images in their order, read with h5py."""
    import h5py

    with h5py.File(store) as file:
        return file["features/plain"][:][file["images/content"][:]]


def test_an_entry_is_compared_by_the_mean_of_its_images(bundle_with_examples, network, painted):
    paths = painted((200, 0, 0), (0, 0, 200))
    alone = painted((200, 0, 0), (0, 0, 200), (100, 0, 100))[2]
    with Predictor(bundle_with_examples, workers=1) as predictor:
        (entry,) = predictor.predict(inputs(*paths, entry="e"), ["", ""])
        (mean,) = predictor.predict(inputs(alone), ["0"])
    assert [one.example for one in entry.similar] == [one.example for one in mean.similar]
    assert (entry.grade.n_images, entry.grade.path, entry.grade.entry) == (2, "", "e")


def test_an_unreadable_image_has_no_similar_examples(bundle_with_examples, network, painted, tmp_path):
    (good,) = painted((200, 0, 0))
    bad = tmp_path / "bad.png"
    bad.write_text("x")
    sent = inputs(bad) + inputs(good, problem="too large: by far") + inputs(good)
    with Predictor(bundle_with_examples, workers=1) as predictor:
        first, second, third = predictor.predict(sent, ["0", "1", "2"])
        only = predictor.predict(inputs(bad), ["0"])
    assert (first.grade.problem, first.similar) == ("not an image", ())
    assert (second.grade.problem, second.similar) == ("too large: by far", ())
    assert third.grade.grade == "award"
    assert len(third.similar) == N_SIMILAR
    assert only[0].similar == ()


def test_an_image_of_too_many_pixels_is_refused(bundle, network, painted):
    with Predictor(bundle, workers=1, max_pixels=1000) as predictor:
        (prediction,) = predictor.predict(inputs(*painted((1, 2, 3))), ["0"])
    assert prediction.grade.problem == "too many pixels: 48 x 40, the limit is 1000 (--max-pixels)"


def test_warm_up_raises_if_weights_are_missing(make_store, network, tmp_path):
    config = {"weights": {"kind": "file", "sha256": "1" * 64, "seed": None}}
    lacking = fit(make_store(config=config), head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    with (
        Predictor(lacking, workers=1) as predictor,
        pytest.raises(BundleError, match=r"lacks the weights.*--weights FILE"),
    ):
        predictor.warm_up(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == []


def test_warm_up_leaves_no_file(bundle, network, tmp_path):
    with Predictor(bundle, workers=1) as predictor:
        predictor.warm_up(tmp_path)
        assert predictor.notes == ()
    assert list(tmp_path.iterdir()) == []
    with (
        Predictor(bundle, workers=1, max_pixels=10) as predictor,
        pytest.raises(BundleError, match="plain grey image: too many"),
    ):
        predictor.warm_up(tmp_path)
