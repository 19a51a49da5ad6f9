"""A bundle that stays ready: grades as `predict` gives them, neighbours as scikit-learn finds them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from classify.deploy.predict import InputFile, predict
from classify.deploy.serve.grader import NEIGHBOURS, Grader
from classify.errors import BundleError
from classify.io.bundle_extras import load_examples
from classify.jobs.fit import fit


def listed(*paths: Path, entry: str | None = None, problem: str = ""):
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


def test_it_grades_again_and_again_as_predict_does(bundle, network, painted, monkeypatch):
    paths = painted(*COLOURS)
    with Grader(bundle, workers=1) as grader:
        found = [
            answer.grade for _ in range(2) for answer in grader.grade(listed(*paths), together=list("abcde"))
        ]

    def image_features(files, config, **options):
        from featurize.extraction.inference import FeatureReader

        with FeatureReader(config, workers=1) as reader:
            return reader.features(files)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    said = predict(bundle, paths).grades
    assert [(one.grade, one.probabilities) for one in found] == [
        (one.grade, one.probabilities) for one in said
    ] * 2
    assert {one.grade for one in said} == {"award", "low", "middle"}


def test_neighbours_are_those_of_scikit_learn(bundle_with_examples, network, painted, store):
    examples = load_examples(Grader(bundle_with_examples).bundle)
    fitted = np.array([[float(c) for c in row] for row in _fitted(store)])
    search = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(fitted)
    distance, index = search.kneighbors(np.array(COLOURS, dtype=float))
    with Grader(bundle_with_examples, workers=1) as grader:
        answers = grader.grade(listed(*painted(*COLOURS)), together=list("abcde"))
    for answer, near, far in zip(answers, index, distance, strict=True):
        # Kept in half precision: what is as near to within that may change places.
        np.testing.assert_allclose([one.similarity for one in answer.nearest], 1 - far, atol=2e-3)
        clear = np.flatnonzero(np.diff(far, append=1) > 4e-3)
        for end in clear:
            assert {one.example for one in answer.nearest[: end + 1]} == set(near[: end + 1])
        for one in answer.nearest:
            assert one.name == examples.names[one.example]
            assert one.name.startswith(one.grade)  # the files are called after their grades


def _fitted(store):
    """Return the features of the fitted images in their order, read with h5py."""
    import h5py

    with h5py.File(store) as file:
        return file["features/plain"][:][file["images/content"][:]]


def test_an_entry_is_like_the_mean_of_its_images(bundle_with_examples, network, painted):
    paths = painted((200, 0, 0), (0, 0, 200))
    alone = painted((200, 0, 0), (0, 0, 200), (100, 0, 100))[2]
    with Grader(bundle_with_examples, workers=1) as grader:
        (entry,) = grader.grade(listed(*paths, entry="e"), together=["", ""])
        (mean,) = grader.grade(listed(alone), together=["0"])
    assert [one.example for one in entry.nearest] == [one.example for one in mean.nearest]
    assert (entry.grade.n_images, entry.grade.path, entry.grade.entry) == (2, "", "e")


def test_what_cannot_be_read_has_no_neighbours(bundle_with_examples, network, painted, tmp_path):
    (good,) = painted((200, 0, 0))
    bad = tmp_path / "bad.png"
    bad.write_text("x")
    sent = listed(bad) + listed(good, problem="too large: by far") + listed(good)
    with Grader(bundle_with_examples, workers=1) as grader:
        first, second, third = grader.grade(sent, together=["0", "1", "2"])
        only = grader.grade(listed(bad), together=["0"])
    assert (first.grade.problem, first.nearest) == ("not an image", ())
    assert (second.grade.problem, second.nearest) == ("too large: by far", ())
    assert third.grade.grade == "award"
    assert len(third.nearest) == NEIGHBOURS
    assert only[0].nearest == ()


def test_a_picture_of_too_many_pixels_is_refused(bundle, network, painted):
    with Grader(bundle, workers=1, max_pixels=1000) as grader:
        (answer,) = grader.grade(listed(*painted((1, 2, 3))), together=["0"])
    assert answer.grade.problem == "too many pixels: 48 x 40, the limit is 1000 (--max-pixels)"


def test_getting_ready_finds_what_is_missing(make_store, network, tmp_path):
    config = {"weights": {"kind": "file", "sha256": "1" * 64, "seed": None}}
    lacking = fit(make_store(config=config), head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    with (
        Grader(lacking, workers=1) as grader,
        pytest.raises(BundleError, match=r"lacks the weights.*--weights FILE"),
    ):
        grader.warm_up(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == []


def test_getting_ready_leaves_nothing(bundle, network, tmp_path):
    with Grader(bundle, workers=1) as grader:
        grader.warm_up(tmp_path)
        assert grader.notes == ()
    assert list(tmp_path.iterdir()) == []
    with (
        Grader(bundle, workers=1, max_pixels=10) as grader,
        pytest.raises(BundleError, match="plain grey picture: too many"),
    ):
        grader.warm_up(tmp_path)
