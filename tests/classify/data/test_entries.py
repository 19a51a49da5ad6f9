"""Entries of several images: tuned, tested and written as a whole; every figure worked out once more."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.cli.main import cli
from classify.data.entries import entry_numbers, group_means, is_portfolio, resolve_join
from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from classify.model_selection.cache import task_key
from classify.model_selection.predictions import average_entries
from classify.model_selection.protocol import make_protocol
from classify.model_selection.tasks import FitTask, ScoreTask
from featurize.extraction.inference import ImageFeatures

POINTS = ({"C": 0.001, "scaling": "standardise"}, {"C": 1.0, "scaling": "standardise"})


def logistic(C):
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-6, max_iter=10_000))


@pytest.fixture
def portfolios(make_store):
    """20 train and 10 test entries a class, of 3 images each that are hard to tell apart one by one."""
    return make_store(counts={"train": 60, "test": 30}, per_entry=3, distance=1.0)


def read(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def probabilities(row):
    return [float(row["p_award"]), float(row["p_low"])]


def test_the_mean_of_rows_with_one_number():
    values = np.array([[1, 10], [5, 50], [3, 20], [7, 80]], dtype=np.float32)
    found = group_means(values, np.array([1, 0, 1, 1]), n=2)
    np.testing.assert_array_equal(found, np.array([[5, 50], [11 / 3, 110 / 3]], dtype=np.float32))
    assert found.dtype == np.float32
    alone = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(group_means(alone, np.array([4, 2, 0, 1, 3]), n=5), alone[[2, 3, 1, 4, 0]])
    assert group_means(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), n=0).shape == (0, 2)


@pytest.mark.parametrize("join", ["probabilities", "features"])
def test_entries_of_one_image_stay_as_they_are(make_store, join):
    samples = load_samples(make_store())
    assert resolve_join(samples, join) is samples
    assert not is_portfolio(samples)


def test_an_unknown_join_is_refused(portfolios):
    with pytest.raises(CompareError, match="join is 'median': expected probabilities or features"):
        resolve_join(load_samples(portfolios), "median")


@pytest.mark.parametrize("join", ["probabilities", "features"])
def test_a_fact_describes_how_entries_are_predicted(portfolios, join):
    samples = resolve_join(load_samples(portfolios), join)
    assert is_portfolio(samples)
    assert samples.facts.lines() == [
        f"180 images of 60 entries: one prediction per entry, from the mean {join} of its images"
    ]


def test_averaged_features_are_means_view_by_view(portfolios):
    samples = load_samples(portfolios)
    joined = resolve_join(samples, "features")
    entries = list(dict.fromkeys(samples.entry))
    assert joined.entry == joined.path == entries
    assert joined.n_joined.tolist() == [3] * 60
    rows = joined.rows(np.arange(60))
    row = 0
    for k, entry in enumerate(entries):
        images = [i for i, name in enumerate(samples.entry) if name == entry]
        contents = samples.content[images]
        expected = [samples.plain[contents].mean(axis=0)]
        if entry.startswith("train"):
            views = samples.augmented[samples.augmented_row[contents]]  # (3, n_views, n_features)
            expected += list(views.mean(axis=0))
        here = slice(row, row + len(expected))
        np.testing.assert_allclose(rows.X[here], expected, rtol=0, atol=1e-6)
        assert set(rows.image[here]) == {k}
        assert set(rows.y[here]) == set(samples.y[images])
        assert rows.is_plain[here].tolist() == [True] + [False] * (len(expected) - 1)
        row += len(expected)
    assert row == len(rows.X)
    assert joined.group.tolist() == list(range(60))
    assert [joined.entry[i].split("/")[0] for i in joined.test_images] == ["test"] * 20
    assert [joined.entry[i].split("/")[0] for i in joined.train_images] == ["train"] * 40


def test_excluded_images_are_in_no_mean_and_an_entry_may_lack_views(portfolios):
    samples = load_samples(portfolios)
    (out, *kept) = [i for i, name in enumerate(samples.entry) if name == samples.entry[0]]
    fitted = samples.scored.copy()
    fitted[out] = False
    assert samples.entry[0].startswith("test")
    first_train = samples.train_images[0]
    lost = samples.augmented_row.copy()
    lost[samples.content[first_train]] = -1
    joined = resolve_join(replace(samples, scored=fitted, augmented_row=lost), "features")
    expected = samples.plain[samples.content[kept]].mean(axis=0)
    np.testing.assert_allclose(joined.plain[0], expected, rtol=0, atol=1e-6)
    assert joined.n_joined[0] == 2
    row = joined.entry.index(samples.entry[first_train])
    assert joined.augmented_row[row] == -1
    assert joined.augmented_row[row + 1] == 0


def test_no_fold_splits_an_entry(portfolios, make_store):
    nested = make_store("other", counts={"train": 30}, per_entry=3)
    joined = resolve_join(load_samples(nested), "features")
    assert "out of fold, over 20 entries. Bundles" in make_protocol(joined, seed=0).description["text"]
    for path in (portfolios, nested):
        samples = load_samples(path)
        for one in make_protocol(samples, seed=0).outer_folds:
            for fitted, scored in (*one.inner_folds, (one.fit, one.test)):
                assert not {samples.entry[i] for i in fitted} & {samples.entry[i] for i in scored}


def score_task(samples, **changes):
    fitted, scored = make_protocol(samples, seed=0).outer_folds[0].inner_folds[0]
    fields = {"samples": samples, "head": "logreg", "points": POINTS, "fit": fitted, "score": scored}
    return ScoreTask(**{**fields, "class_weight": None, "seed": 0, **changes})


def test_hyper_parameters_are_scored_entry_by_entry(portfolios):
    samples = load_samples(portfolios)
    task = score_task(samples)
    rows = samples.rows(task.fit)
    by_entry, by_image = [], []
    for point in POINTS:
        said = logistic(point["C"]).fit(rows.X, rows.y).predict_proba(samples.rows(task.score, views=False).X)
        names = np.array([samples.entry[i] for i in task.score])
        entries = np.unique(names)
        means = np.array([said[names == name].mean(axis=0) for name in entries])
        truth = [samples.y[task.score][names == name][0] for name in entries]
        by_entry.append(balanced_accuracy_score(truth, means.argmax(axis=1)))
        by_image.append(balanced_accuracy_score(samples.y[task.score], said.argmax(axis=1)))
    assert by_entry != by_image
    np.testing.assert_allclose(task.run().scores, by_entry, atol=1e-12)


@pytest.mark.parametrize("head", ["logreg", "svm-linear", "svm-rbf", "baseline"])
def test_every_head_scores_entries(portfolios, head):
    task = score_task(load_samples(portfolios), head=head, points=({},))
    (score,) = task.run().scores
    assert score * 8 == pytest.approx(round(score * 8))  # 4 entries of either class are scored


def test_the_cache_key_of_scores_depends_on_the_entries(portfolios):
    samples = load_samples(portfolios)
    one_by_one = replace(samples, entry=samples.path)
    task, alone = score_task(samples), score_task(one_by_one)
    assert task_key(task, device="cpu") != task_key(alone, device="cpu")
    renamed = replace(samples, entry=[f"x{name}" for name in samples.entry])
    assert task_key(score_task(renamed), device="cpu") == task_key(task, device="cpu")


def test_metrics_are_per_entry_and_follow_from_the_images(portfolios, tmp_path):
    done = compare([portfolios], heads=("logreg",), out=tmp_path / "run", jobs=1)
    entries = [row for row in read(done.folder / "predictions.csv") if row["head"] == "logreg"]
    images = [row for row in read(done.folder / "image_predictions.csv") if row["head"] == "logreg"]
    assert list(entries[0])[:5] == ["store", "head", "entry", "path", "n_images"]
    assert (len(entries), len(images)) == (20, 60)
    assert {(row["n_images"], row["path"]) for row in entries} == {("3", "")}
    assert all(row["path"].startswith(row["entry"] + "/") for row in images)
    truth, said = [], []
    for row in entries:
        members = [probabilities(image) for image in images if image["entry"] == row["entry"]]
        assert len(members) == 3
        np.testing.assert_allclose(probabilities(row), np.mean(members, axis=0), atol=1e-6)
        said.append(probabilities(row))
        truth.append(("award", "low").index(row["true_class"]))
    (result,) = (one for one in done.record["results"] if one["head"] == "logreg")
    decided = np.argmax(said, axis=1)
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy_score(truth, decided))
    assert result["metrics"]["log_loss"] == pytest.approx(log_loss(truth, np.array(said)), abs=1e-4)
    assert np.sum(result["confusion_matrix"]) == 20
    assert "180 images of 60 entries: one prediction per entry" in done.record["facts"][0]
    assert done.record["join"] == "probabilities"


def test_entries_of_one_image_write_no_image_predictions(make_store, tmp_path):
    done = compare([make_store()], heads=("logreg",), out=tmp_path / "run", jobs=1)
    rows = read(done.folder / "predictions.csv")
    assert all(row["n_images"] == "1" and row["path"] == row["entry"] for row in rows)
    assert not (done.folder / "image_predictions.csv").exists()
    assert done.record["join"] is None


def test_out_of_fold_metrics_are_per_entry(make_store, tmp_path):
    store = make_store(counts={"train": 30}, per_entry=3, distance=1.0)
    done = compare([store], heads=("logreg",), out=tmp_path / "run", jobs=1)
    entries = [row for row in read(done.folder / "predictions.csv") if row["head"] == "logreg"]
    images = [row for row in read(done.folder / "image_predictions.csv") if row["head"] == "logreg"]
    fold = {row["entry"]: row["fold"] for row in entries}
    assert len(fold) == len(entries) == 20
    assert len(images) == 60
    assert all(row["fold"] == fold[row["entry"]] for row in images)


def test_averaged_features_give_the_fit_of_hand_averaged_ones(portfolios, tmp_path):
    done = compare([portfolios], heads=("logreg",), join="features", out=tmp_path / "run", jobs=1)
    (result,) = (one for one in done.record["results"] if one["head"] == "logreg")
    samples = load_samples(portfolios)
    names = np.array(samples.entry)
    means = {name: samples.plain[samples.content[names == name]].mean(axis=0) for name in set(names)}
    label = dict(zip(samples.entry, samples.y, strict=True))
    X, y = [], []
    for name in sorted(name for name in means if name.startswith("train")):
        views = samples.augmented[samples.augmented_row[samples.content[names == name]]].mean(axis=0)
        X += [means[name], *views]
        y += [label[name]] * (1 + len(views))
    scaler = {"standardise": StandardScaler(), "l2": Normalizer()}[result["params"]["scaling"]]
    logreg = LogisticRegression(C=result["params"]["C"], solver="newton-cholesky", tol=1e-10)
    model = make_pipeline(scaler, logreg)
    model.fit(np.array(X, dtype=np.float64), y)
    rows = [row for row in read(done.folder / "predictions.csv") if row["head"] == "logreg"]
    assert [row["n_images"] for row in rows] == ["3"] * 20
    assert not (done.folder / "image_predictions.csv").exists()
    expected = model.predict_proba(np.array([means[row["entry"]] for row in rows], dtype=np.float64))
    np.testing.assert_allclose([probabilities(row) for row in rows], expected, rtol=0, atol=2e-4)  # solvers


def test_a_head_fitted_alone_is_tested_on_entries(portfolios, tmp_path):
    done = fit(portfolios, head="logreg", params={"C": 0.1}, out=tmp_path / "bundle")
    samples = load_samples(portfolios)
    task = FitTask(
        samples=samples,
        head="logreg",
        params={"C": 0.1},
        fit=samples.train_images,
        test=samples.test_images,
        val=None,
        class_weight=None,
        seed=0,
        return_head=False,
    )
    found = average_entries(samples, samples.test_images, task.run().probabilities)
    decided = found.probabilities.argmax(axis=1)
    assert done.metrics["accuracy"] == pytest.approx(accuracy_score(found.y, decided))
    assert (len(found.y), done.n_test, done.tested_on) == (20, 20, "entries")
    assert (done.n_train, done.fitted_on) == (120, "images")
    assert found.n_images.tolist() == [3] * 20


def test_entries_are_numbered_in_order_of_appearance(portfolios):
    samples = load_samples(portfolios)
    assert entry_numbers(samples, [5, 0, 4, 1]).tolist() == [0, 1, 0, 1]


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("classify.cli.main.silence_libraries", lambda *, verbose: None)

    def call(*words):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    return call


def test_the_command_line_counts_entries(call, portfolios, tmp_path, monkeypatch):
    said = call("compare", portfolios, "--heads", "logreg", "--out", "run", "--join", "features")
    assert "180 images of 60 entries: one prediction per entry, from the mean features of its images" in said
    assert "All other metrics: on the 20 test entries, which were used once; one entry is 5.0 %." in said

    def image_features(paths, config, **options):
        features = np.ones((len(paths), 8), np.float32)
        return ImageFeatures(features=features, index=np.arange(len(paths)), problems={})

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    for name in ("one/1.jpg", "one/2.jpg", "two/1.jpg"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_text(name)
    assert "new/one (2 images)" in call("predict", "run", "new")
    by_image = call("predict", "run", "new", "--entries", "image")
    assert "3 images of 2 entries: one prediction per image, not per entry" in by_image
    assert "new/one/2.jpg" in by_image
    said = call("fit", portfolios, "--head", "logreg", "--param", "C=0.1", "--join", "features")
    assert "logreg on 40 entries of efficientnet_lite0" in said
    assert " on 20 entries Bundle: " in said
    said = call("fit", portfolios, "--head", "logreg", "--like", "run", "--overwrite")
    assert "logreg on 40 entries of efficientnet_lite0" in said
    said = call(
        "fit", portfolios, "--head", "logreg", "--like", "run", "--join", "probabilities", "--overwrite"
    )
    assert "logreg on 120 images of efficientnet_lite0" in said
