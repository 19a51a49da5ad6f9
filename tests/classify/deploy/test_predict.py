"""Predictions for new images: one row per file or entry, equal to those of the comparison; CSV and JSON."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.deploy.predict import bundle_folder, predict
from classify.errors import BundleError
from classify.io.bundle import load_bundle
from classify.io.grades import check_output, grades_json, write_grades
from classify.jobs.compare import compare
from classify.jobs.fit import fit
from featurize import ConfigError, DatasetError, EngineError
from featurize.extraction.inference import ImageFeatures

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def store(store_maker, tmp_path_factory):
    return store_maker(tmp_path_factory.mktemp("store"))(counts={"train": 10, "test": 6}, distance=1.5)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A comparison; read only."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return compare([store], heads=("logreg", "svm-linear"), out=out, jobs=1, report=False)


@pytest.fixture(scope="module")
def images(store, tmp_path_factory):
    """A folder of the test images; each file holds its own row number in the store."""
    samples, folder = load_samples(store), tmp_path_factory.mktemp("data")
    for image in samples.test_images:
        path = folder / samples.path[image]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(samples.content[image]))
    return folder / "test"


@pytest.fixture
def network(store, monkeypatch):
    """Stand in for the network: a file's features are those of the store's row it names."""
    plain = load_samples(store).plain
    calls = []

    def image_features(paths, config, *, precision=None, **options):
        calls.append({"precision": precision, **options})
        found = {i: path.read_text() for i, path in enumerate(paths)}
        index = np.array([i for i, text in found.items() if text.isdecimal()], dtype=np.int64)
        features = plain[[int(found[i]) for i in index]] if len(index) else np.zeros((0, 8), np.float32)
        problems = {i: "not an image" for i, text in found.items() if not text.isdecimal()}
        return ImageFeatures(features=features, index=index, problems=problems)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    return calls


@pytest.mark.parametrize("head", ["logreg", "svm-linear", "baseline"])
def test_predictions_are_those_of_the_comparison(run, images, network, head):
    bundle = run.folder / "bundles" / f"efficientnet_lite0__{head}"
    result = predict(bundle, [images])
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["head"] == head]
    expected = {row["path"]: row for row in rows}
    assert len(result.grades) == len(expected) == 12
    for grade in result.grades:
        row = expected[os.path.relpath(grade.path, images.parent).replace(os.sep, "/")]
        assert grade.grade == row["predicted_class"]
        assert [f"{value:.6f}" for value in grade.probabilities] == [row["p_award"], row["p_low"]]
        assert grade.confidence == max(grade.probabilities)


def test_a_run_stands_for_its_recommended_head(run):
    assert bundle_folder(run.folder) == run.folder / run.recommended["bundle"]


def test_every_file_has_a_row(run, images, network, tmp_path):
    broken = tmp_path / "notes.txt"
    broken.write_text("hello")
    first = sorted(images.rglob("*.jpg"))[0]
    result = predict(run.folder, [broken, first, images])
    assert len(result.grades) == 1 + 12  # the file given twice has one row
    assert result.n_failed == 1
    assert result.grades[0].path == str(broken)
    assert (result.grades[0].grade, result.grades[0].confidence) == ("", None)
    assert result.grades[0].problem == "not an image"
    assert result.grades[1].path == result.grades[1].entry == str(first)


def test_note_that_entries_are_predicted_image_by_image(run, images, network):
    result = predict(run.folder, [images])
    assert {grade.entry for grade in result.grades} == {str(images / "award"), str(images / "low")}
    assert result.notes == (
        "12 images of 2 entries: one prediction per image, not per entry; use --entries folder "
        "for one per entry",
    )
    chosen = predict(run.folder, [images], entries="image")
    assert chosen.grades == result.grades
    assert chosen.notes == ("12 images of 2 entries: one prediction per image, not per entry",)
    assert predict(run.folder, [images / "low"]).notes == ()
    both = predict(run.folder, [images / "low", images, images / "low"])
    assert len(both.grades) == 12
    assert both.notes == (
        "6 images of 1 entry: one prediction per image, not per entry; use --entries folder "
        "for one per entry",
    )


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_is_one_file(run, images, network, kind):
    """Not a sequence of characters: "/" would be the whole disk."""
    file = sorted(images.rglob("*.jpg"))[0]
    assert file.is_absolute()
    (row,) = predict(str(run.folder), kind(file)).grades
    assert (row.path, row.problem) == (str(file), "")
    assert predict(run.folder, kind(images)).grades == predict(run.folder, [images]).grades
    assert predict(run.folder, (path for path in [file])).grades == (row,)


@pytest.fixture
def portfolios(make_store):
    """Test entries of 3 images each."""
    return make_store(counts={"train": 12, "test": 6}, per_entry=3, distance=1.5)


@pytest.fixture
def portfolio_images(portfolios, tmp_path, monkeypatch):
    """A folder of the test entries; each file holds its own row number in the store."""
    samples = load_samples(portfolios)
    for image in samples.test_images:
        path = tmp_path / "work" / samples.entry[image].replace("/", "_") / Path(samples.path[image]).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(samples.content[image]))

    def image_features(paths, config, **options):
        texts = [path.read_text() for path in paths]
        index = np.array([k for k, text in enumerate(texts) if text.isdecimal()], dtype=np.int64)[::-1]
        rows = [int(texts[k]) for k in index]
        problems = {k: "not an image" for k, text in enumerate(texts) if not text.isdecimal()}
        features = samples.plain[rows] if rows else np.zeros((0, 8), np.float32)
        return ImageFeatures(features=features, index=index, problems=problems)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    return tmp_path / "work"


@pytest.mark.parametrize("join", ["probabilities", "features"])
def test_predictions_of_entries_are_those_of_the_comparison(portfolios, portfolio_images, tmp_path, join):
    run = compare([portfolios], heads=("logreg",), join=join, out=tmp_path / "run", jobs=1)
    result = predict(run.folder, [portfolio_images])
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        expected = {
            row["entry"].replace("/", "_"): row for row in csv.DictReader(stream) if row["head"] == "logreg"
        }
    assert len(result.grades) == len(expected) == 4
    for grade in result.grades:
        row = expected[Path(grade.entry).name]
        assert (grade.path, grade.n_images, grade.problem) == ("", 3, "")
        assert grade.grade == row["predicted_class"]
        assert [f"{value:.6f}" for value in grade.probabilities] == [row["p_award"], row["p_low"]]
    assert result.notes == (
        f"12 images of 4 entries: one prediction per entry, from the mean {join} of its images",
    )
    assert load_bundle(bundle_folder(run.folder)).join == join
    (found, *_) = grades_json(result)
    assert (found["path"], found["n_images"]) == (None, 3)


def test_unreadable_images_of_an_entry_are_left_out(portfolios, portfolio_images, tmp_path):
    bundle = fit(portfolios, head="logreg", params={"C": 0.1}, out=tmp_path / "bundle").bundle
    first, second, *_ = sorted(portfolio_images.iterdir())
    bad, *good = sorted(first.iterdir())
    bad.write_text("x")
    for path in second.iterdir():
        path.write_text("x")
    one, none, *others = predict(bundle, [portfolio_images]).grades
    alone = predict(bundle, good, entries="image").grades
    np.testing.assert_allclose(
        one.probabilities, np.mean([grade.probabilities for grade in alone], axis=0), atol=1e-12
    )
    assert (one.n_images, one.problem) == (2, f"{bad}: not an image")
    assert (none.n_images, none.grade, none.confidence) == (0, "", None)
    assert none.problem.count("not an image") == 3
    assert all(grade.grade and not grade.problem for grade in others)
    out = tmp_path / "grades.csv"
    write_grades(out, predict(bundle, [portfolio_images]))
    rows = list(csv.DictReader(out.read_text(encoding="utf-8-sig").splitlines()))
    assert [row["n_images"] for row in rows] == ["2", "0", "3", "3"]
    assert rows[0]["entry"] == str(first)


def test_images_of_entries_can_be_predicted_one_by_one(portfolios, portfolio_images, tmp_path):
    bundle = fit(portfolios, head="logreg", params={"C": 0.1}, out=tmp_path / "bundle").bundle
    result = predict(bundle, [portfolio_images], entries="image")
    assert len(result.grades) == 12
    assert all(grade.n_images == 1 and grade.path for grade in result.grades)
    assert result.notes == ("12 images of 4 entries: one prediction per image, not per entry",)
    with pytest.raises(ConfigError, match="entries is 'file': expected folder or image"):
        predict(bundle, [portfolio_images], entries="file")


def test_images_directly_in_the_given_folder_are_entries(portfolios, portfolio_images, tmp_path):
    bundle = fit(portfolios, head="logreg", params={"C": 0.1}, out=tmp_path / "bundle").bundle
    inside = sorted(portfolio_images.iterdir())[0]
    result = predict(bundle, [inside])
    assert [grade.n_images for grade in result.grades] == [1, 1, 1]
    assert result.notes == (
        f"3 images are directly in {inside}: each is an entry of its own. If they are one entry, name the "
        "parent folder",
    )
    assert predict(bundle, [inside], entries="image").notes == ()


def test_a_missing_input_does_not_affect_the_others(run, images, network, tmp_path):
    (tmp_path / "empty").mkdir()
    result = predict(run.folder, [tmp_path / "gone.jpg", tmp_path / "empty", images / "low"])
    assert (result.grades[0].path, result.grades[0].problem) == (str(tmp_path / "gone.jpg"), "no such file")
    assert [bool(grade.grade) for grade in result.grades] == [False, *[True] * 6]
    assert result.grades[1:] == predict(run.folder, [images / "low"]).grades
    assert result.notes == (f"{tmp_path / 'empty'}: no file in this folder",)


@pytest.mark.parametrize(
    "recommended", [..., 3, [], {}, {"bundle": None}, {"bundle": "/etc"}, {"bundle": "../../b"}]
)
def test_a_record_without_a_usable_recommendation_is_refused(run, recommended, tmp_path):
    record = json.loads((run.folder / "results.json").read_text())
    record["recommended"] = recommended
    if recommended is ...:
        del record["recommended"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=r"results\.json: 'recommended' is not a bundle"):
        bundle_folder(tmp_path)


def test_an_output_path_that_cannot_be_written(tmp_path):
    with pytest.raises(DatasetError, match="is a folder, expected a CSV file"):
        check_output(tmp_path)
    with pytest.raises(DatasetError, match=r"cannot be written, because .*nowhere is not a folder"):
        check_output(tmp_path / "nowhere" / "g.csv")
    check_output(tmp_path / "g.csv")


def test_the_csv_opens_in_a_spreadsheet(run, network, tmp_path):
    folder = tmp_path / "ü"
    folder.mkdir()
    (folder / "=cmd()").write_text("0")
    (folder / "bad").write_text("x")
    out = tmp_path / "grades.csv"
    work = predict(run.folder, [folder / "bad", folder])
    write_grades(out, work)
    raw = out.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines()))
    assert list(rows[0]) == [
        *("path", "entry", "n_images", "grade", "confidence", "p_award", "p_low", "problem")
    ]
    assert [row["n_images"] for row in rows] == ["0", "1"]
    assert [row["problem"] for row in rows] == ["not an image", ""]
    assert [bool(row["grade"]) for row in rows] == [False, True]
    assert float(rows[1]["confidence"]) == pytest.approx(
        max(float(rows[1]["p_award"]), float(rows[1]["p_low"]))
    )


def test_a_file_name_that_looks_like_a_formula(run, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "=cmd()").write_text("0")
    out = tmp_path / "grades.csv"
    write_grades(out, predict(run.folder, ["=cmd()"]))
    assert "\n'=cmd(),'=cmd()," in out.read_text(encoding="utf-8-sig")


def test_json_has_null_where_there_is_no_grade(run, network, tmp_path):
    (tmp_path / "bad.jpg").write_text("x")
    (found,) = grades_json(predict(run.folder, [tmp_path / "bad.jpg"]))
    assert found["grade"] is None
    assert found["probabilities"] is None
    assert found["problem"] == "not an image"


def test_missing_paths_are_refused(run, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such file or folder"):
        predict(run.folder, [tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: no file in this folder\. Name image files"):
        predict(run.folder, [tmp_path / "empty"])
    with pytest.raises(BundleError, match=r"no such folder; expected a bundle"):
        bundle_folder(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"no bundle or run; expected a bundle"):
        bundle_folder(tmp_path / "empty")


def test_a_classical_head_does_not_import_tensorflow(run, tmp_path):
    """What the network's engine needs is the engine's business."""
    (tmp_path / "a.jpg").write_text("x")
    code = (
        "import sys, numpy as np, featurize.extraction.inference as inference\n"
        "X = np.zeros((1, 8), np.float32)\n"
        "found = inference.ImageFeatures(features=X, index=np.array([0]), problems={})\n"
        "inference.image_features = lambda *arguments, **options: found\n"
        "from classify.cli.main import cli\n"
        "cli(sys.argv[1:], prog_name='classify', standalone_mode=False)\n"
        "print([name for name in ('tensorflow', 'keras', 'tensorboard') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(run.folder), str(tmp_path / "a.jpg")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "Grades predicted by" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "fitted_in", [{"precision": "float16"}, {"precision": "bfloat16", "engine": "openvino"}], ids=str
)
def test_an_unsupported_precision_falls_back_to_float32(make_store, tmp_path, monkeypatch, fitted_in):
    bundle = fit(
        make_store(counts={"train": 8}, config=fitted_in),
        head="logreg",
        params={"C": 1.0},
        out=tmp_path / "bundle",
    ).bundle
    precisions = []

    def image_features(paths, config, *, precision=None, **options):
        precisions.append(precision)
        if precision is None:
            raise EngineError("this processor has no instructions for it")
        return ImageFeatures(features=np.zeros((1, 8), np.float32), index=np.array([0]), problems={})

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)
    (tmp_path / "a.jpg").write_text("0")
    result = predict(bundle, [tmp_path / "a.jpg"])
    assert precisions == [None, "float32"]
    precision = fitted_in["precision"]
    assert result.notes == (
        f"features for fitting are in {precision}, not supported by this machine: float32 is used",
    )


def test_missing_weights_name_the_option(make_store, tmp_path):
    config = {"weights": {"kind": "file", "sha256": "1" * 64, "seed": None}}
    store = make_store(counts={"train": 8}, config=config)
    bundle = fit(store, head="logreg", params={"C": 1.0}, out=tmp_path / "bundle").bundle
    (tmp_path / "a.jpg").write_text("0")
    with pytest.raises(BundleError, match=r"lacks the weights of its backbone.*--weights FILE"):
        predict(bundle, [tmp_path / "a.jpg"])
