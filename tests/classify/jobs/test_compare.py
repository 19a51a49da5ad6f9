"""Whole comparisons on synthetic stores: which images decide what, what is written, what is refused."""

import csv
import inspect
import json
from dataclasses import asdict, fields
from types import SimpleNamespace

import numpy as np
import pytest

from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.heads.registry import HEADS, make_head
from classify.io.folder import move_logs
from classify.io.results import SIMPLEST_FIRST, leaderboard, plain_json
from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions, task_cache
from classify.model_selection.protocol import make_protocol
from featurize import FolioError
from featurize.base.text import safe_cell

QUICK = ("logreg", "svm-linear")
TIMES = {"created", "created_with", "made", "tune_seconds", "fit_seconds", "predict_ms_per_image"}


def read_predictions(folder):
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def run(make_store, tmp_path):
    def run(heads=QUICK, *, out="run", store=None, **options):
        return compare([make_store(**(store or {}))], heads=heads, out=tmp_path / out, jobs=1, **options)

    return run


def test_a_run_folder_has_all_files(run):
    done = run()
    record = json.loads((done.folder / "results.json").read_text())
    assert record == done.record
    assert {"dataset", "classes", "ordered", "protocol", "results"} <= set(record)
    assert (record["dataset"], record["classes"], record["positive_class"]) == (
        "posters",
        ["award", "low"],
        "low",
    )
    assert [result["head"] for result in record["results"]] == [*QUICK, "baseline"]
    for result in record["results"]:
        assert set(result["metrics"]) == {
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "roc_auc",
            "log_loss",
            "brier_score",
            "calibration_error",
        }
        assert set(result["metrics"]) <= set(result["intervals"])
        assert sum(item["count"] for item in result["reliability"]) == 20
        assert result["status"] == "ok"
        assert (result["n_train"], result["n_test"], result["refitted"]) == (40, 20, False)
        assert (done.folder / result["bundle"] / "manifest.json").is_file()
        assert np.sum(result["confusion_matrix"]) == 20
    assert record["protocol"]["kind"] == "test split"
    assert record["protocol"]["n_folds"] == 5


def test_metrics_follow_from_the_predictions(run):
    done = run(store={"distance": 1.5})
    rows = read_predictions(done.folder)
    assert len(rows) == 3 * 20
    for result in done.record["results"]:
        mine = [row for row in rows if row["head"] == result["head"]]
        hits = [row["true_class"] == row["predicted_class"] for row in mine]
        assert result["metrics"]["accuracy"] == pytest.approx(np.mean(hits))
        for row in mine:
            award, low = float(row["p_award"]), float(row["p_low"])
            assert award + low == pytest.approx(1, abs=2e-6)
            assert row["predicted_class"] == ("low" if low > award else "award")
            assert row["path"].startswith(f"test/{row['true_class']}/")
            assert row["fold"] == ""


def test_the_baseline_is_chance_and_never_recommended(run):
    done = run(("logreg",), store={"distance": 0.0})
    baseline = next(row for row in done.record["results"] if row["head"] == "baseline")
    assert baseline["metrics"]["balanced_accuracy"] == 0.5
    assert baseline["cv_balanced_accuracy"] == 0.5
    assert done.recommended["head"] == "logreg"


def test_equal_scores_recommend_the_simpler_head(run):
    done = run(("svm-rbf", "logreg"), store={"distance": 30.0})
    assert {row["cv_balanced_accuracy"] for row in done.record["results"] if row["head"] != "baseline"} == {
        1.0
    }
    assert done.recommended["head"] == "logreg"
    board = leaderboard(done.record)
    assert [row["head"] for row in board] == ["logreg", "svm-rbf", "baseline"]
    assert [row["recommended"] for row in board] == [True, False, False]


def test_every_head_is_ranked_by_simplicity():
    assert {name for name in HEADS if name != "baseline"} <= set(SIMPLEST_FIRST)


def test_a_comparison_is_deterministic(run):
    first, second = run(out="one"), run(out="two", fresh=True)
    assert without_times(first.record) == without_times(second.record)
    assert read_predictions(first.folder) == read_predictions(second.folder)


def test_without_a_test_split_all_metrics_are_out_of_fold(run):
    done = run(("logreg",), store={"counts": {"train": 15}, "distance": 2.0})
    assert done.record["protocol"]["kind"] == "nested cross-validation"
    result = done.record["results"][0]
    assert (result["n_test"], result["n_train"], len(result["params"])) == (30, 24, 5)
    assert result["cv_balanced_accuracy"] == result["metrics"]["balanced_accuracy"]
    assert result["refitted"] is True
    rows = [row for row in read_predictions(done.folder) if row["head"] == "logreg"]
    assert len({row["path"] for row in rows}) == len(rows) == 30
    assert {row["fold"] for row in rows} == {"0", "1", "2", "3", "4"}


def test_out_of_fold_probabilities_by_hand(run, make_store):
    store = {"counts": {"train": 9}, "distance": 2.0}
    done = run(("logreg",), store=store)
    samples = load_samples(make_store(**store))
    params = done.record["results"][0]["params"]
    said = {row["path"]: row for row in read_predictions(done.folder) if row["head"] == "logreg"}
    for fold, work in enumerate(make_protocol(samples, seed=0).outer_folds):
        rows = samples.rows(work.fit)
        head = make_head("logreg", params=params[fold]).fit(rows.X, rows.y)
        low_ones = head.predict_proba(samples.plain[samples.content[work.test]])[:, 1]
        for image, low in zip(work.test, low_ones, strict=True):
            assert said[samples.path[image]]["fold"] == str(fold)
            assert float(said[samples.path[image]]["p_low"]) == pytest.approx(low, abs=1e-6)


def test_no_image_is_fitted_and_tested_on(make_store):
    for counts in ({"train": 15}, {"train": 10, "test": 5}, {"train": 10, "val": 5, "test": 5}):
        samples = load_samples(make_store(counts=counts))
        protocol = make_protocol(samples, seed=0)
        for work in protocol.outer_folds:
            for fitted, scored in work.inner_folds:
                assert not set(samples.group[fitted]) & set(samples.group[scored])
                assert not set(samples.group[np.concatenate([fitted, scored])]) & set(
                    samples.group[work.test]
                )
            assert not set(samples.group[work.fit]) & set(samples.group[work.test])
        tested = np.concatenate([work.test for work in protocol.outer_folds])
        assert len(set(tested)) == len(tested) == (30 if len(counts) == 1 else 10)


def test_a_val_split_chooses_and_the_bundle_is_refitted(run, make_store):
    counts = {"train": 10, "val": 6, "test": 5}
    done = run(("logreg",), store={"counts": counts, "distance": 2.0})
    result = done.record["results"][0]
    assert done.record["protocol"]["tuning"] == "val split"
    assert (result["n_train"], result["refitted"]) == (20, True)
    # By hand: the grid point that scores best on val when fitted on train.
    samples = load_samples(make_store(counts=counts, distance=2.0))
    assert set(samples.split[make_protocol(samples, seed=0).outer_folds[0].inner_folds[0][1]]) == {"val"}
    assert set(samples.split[make_protocol(samples, seed=0).final.fit]) == {"train", "val"}


def test_a_failing_head_does_not_stop_the_others(run, monkeypatch):
    from classify.heads.svm import SVMHead

    def broken(self, *arguments, **options):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(SVMHead, "fit", broken)
    done = run()
    by_head = {result["head"]: result for result in done.record["results"]}
    assert by_head["svm-linear"]["status"] == "failed: RuntimeError: no such luck"
    assert set(by_head["svm-linear"]["metrics"].values()) == {None}
    assert by_head["svm-linear"]["bundle"] is None
    assert by_head["logreg"]["status"] == "ok"
    assert done.recommended["head"] == "logreg"
    assert {row["head"] for row in read_predictions(done.folder)} == {"logreg", "baseline"}


def test_too_many_rows_for_an_exact_svm_give_a_note(run, monkeypatch):
    asked = []

    def solver_params(head, n_rows):
        asked.append(n_rows)
        return {"solver": "approximate"} if head == "svm-linear" else {}

    monkeypatch.setattr("classify.model_selection.grid_search.solver_params", solver_params)
    done = run(store={"counts": {"train": 10, "test": 6}})
    assert set(asked) == {2 * 10 * 3}  # classes, images, plain and two views: not those of a fold
    by_head = {result["head"]: result for result in done.record["results"]}
    assert by_head["svm-linear"]["params"]["solver"] == "approximate"
    assert "replaces SVC, also in the search" in by_head["svm-linear"]["notes"][0]
    assert "solver" not in by_head["logreg"]["params"]


def test_two_stores_share_their_folds(make_store, tmp_path):
    stores = [make_store("one", distance=1.0), make_store("two", distance=1.0, config={"resize": "crop"})]
    done = compare(stores, heads=("logreg",), out=tmp_path / "run", jobs=1)
    one, two = (r for r in done.record["results"] if r["head"] == "logreg")
    assert (one["store"], two["store"]) == ("one", "two")
    assert one["metrics"] == two["metrics"]  # equal features, so equal folds make equal figures
    assert one["config_digest"] != two["config_digest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "the content of"),
        ({"counts": {"train": 20, "test": 9}}, "58 files and 60 files"),
        ({"classes": ("award", "middle")}, "the former has .* where the latter has"),
    ],
)
def test_stores_of_other_images_are_refused(make_store, tmp_path, options, message):
    stores = [make_store("one"), make_store("two", **options)]
    with pytest.raises(CompareError, match=message):
        compare(stores, heads=("logreg",), out=tmp_path / "run")


def test_a_str_is_one_store_one_head_and_an_order(make_store, tmp_path):
    store = str(make_store(classes=("low", "middle", "award"), counts={"train": 6, "test": 3}))
    options = {"jobs": 1, "report": False}
    one = compare(store, heads="logreg", order="low, middle,award", out=tmp_path / "one", **options)
    many = compare(
        [store], heads=["logreg"], order=("low", "middle", "award"), out=tmp_path / "two", **options
    )
    assert one.record["classes"] == ["low", "middle", "award"]
    assert one.record["ordered"] is True
    for key in ("classes", "ordered", "stores", "verdicts"):
        assert one.record[key] == many.record[key]
    assert [result["head"] for result in one.record["results"]] == ["logreg", "baseline"]
    made = [record["made"] for record in (one.record, many.record)]
    assert [command["command"].replace("two", "one") for command in made] == [made[0]["command"]] * 2


def test_a_str_of_studies_is_one_study(make_store, tmp_path):
    with pytest.raises(CompareError, match="'nothing'"):
        compare(make_store(), heads="logreg", study="nothing", out=tmp_path / "run")


def test_a_folder_of_stores_is_refused_with_their_names(make_store, tmp_path):
    folder = make_store("one").parent
    make_store("two")
    with pytest.raises(
        CompareError, match=r"is a folder, expected a store. It contains these stores: one\.h5, two"
    ):
        compare([folder], heads=("logreg",), out=tmp_path / "run")
    (tmp_path / "none").mkdir()
    with pytest.raises(CompareError, match=r"It has no \.h5 file"):
        compare([tmp_path / "none"], heads=("logreg",), out=tmp_path / "run")


def test_two_stores_of_one_name_are_refused(make_store, tmp_path):
    stores = [make_store("a/vgg16"), make_store("b/vgg16")]
    with pytest.raises(CompareError, match="second store with the name 'vgg16'"):
        compare(stores, heads=("logreg",), out=tmp_path / "run")


def test_an_order_makes_classes_ordered(run):
    done = run(("logreg",), order=("low", "award"))
    assert (done.record["classes"], done.record["ordered"]) == (["low", "award"], True)
    assert done.record["positive_class"] == "award"


def test_an_existing_run_is_replaced_only_when_asked(run, tmp_path):
    done = run(("logreg",))
    (done.folder / "mine.txt").write_text("keep")
    with pytest.raises(CompareError, match=r"already contains a run\. Replace it with --overwrite"):
        run(("logreg",))
    done = run(("svm-linear",), overwrite=True)
    assert (done.folder / "mine.txt").read_text() == "keep"
    assert sorted(path.name for path in (done.folder / "bundles").iterdir()) == [
        "efficientnet_lite0__baseline",
        "efficientnet_lite0__svm-linear",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bundles").write_text("mine")
    with pytest.raises(CompareError, match="contains something other than a run"):
        run(("logreg",), out="other", overwrite=True)
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_interrupted_run_leaves_nothing(run, tmp_path, monkeypatch):
    from classify.model_selection.tasks import FitTask

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(FitTask, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(("logreg",))
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_unknown_heads_and_single_groups_are_refused(run):
    with pytest.raises(CompareError, match="Unknown head 'forest'"):
        run(("forest",))
    with pytest.raises(CompareError, match="1 group of images"):
        run(("logreg",), store={"counts": {"train": 1, "test": 2}})


def test_few_images_give_fewer_folds_and_a_note(run):
    done = run(("logreg",), store={"counts": {"train": 3, "test": 2}})
    assert done.record["protocol"]["n_folds"] == 3
    assert "3 folds instead of 5" in done.record["protocol"]["notes"][0]


def test_kappa_is_the_primary_metric_of_three_ordered_classes(run):
    done = run(
        store={"classes": ("award", "low", "middle"), "distance": 2.0}, order=("low", "middle", "award")
    )
    assert done.record["statistics"]["primary_metric"] == "quadratic_kappa"
    for result in done.record["results"]:
        confusion = np.array(result["confusion_matrix"])
        assert result["metrics"]["off_by_two"] == pytest.approx((confusion[0, 2] + confusion[2, 0]) / 30)
        ends = result["intervals"]["off_by_two"]
        assert ends["low"] <= result["metrics"]["off_by_two"] <= ends["high"]
    heads = {frozenset((one["a"]["head"], one["b"]["head"])) for one in done.record["verdicts"]}
    assert heads == {
        frozenset(pair)
        for pair in (("logreg", "svm-linear"), ("logreg", "baseline"), ("svm-linear", "baseline"))
    }


def test_out_of_fold_statistics_are_approximate(run):
    done = run(("logreg",), store={"counts": {"train": 15}, "distance": 2.0})
    assert done.record["statistics"]["why"] == "the heads of two folds share training images"
    assert done.record["results"][0]["intervals"]["accuracy"]["approximate"]


def test_seventeen_classes(run):
    names = tuple(f"class {letter}" for letter in "abcdefghijklmnopq")
    done = run(("logreg",), store={"classes": names, "counts": {"train": 5, "test": 2}, "n_features": 30})
    assert done.record["positive_class"] is None
    assert len(done.record["results"][0]["confusion_matrix"]) == 17


def test_what_is_not_finite_is_null():
    assert plain_json({"a": [float("nan"), np.float32(1.5), np.int64(2)], "b": np.array([np.inf])}) == {
        "a": [None, 1.5, 2],
        "b": [None],
    }


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_a_spreadsheet_runs_nothing(text):
    assert safe_cell(text).startswith("'")
    assert safe_cell("plain") == "plain"


def test_dense_options_have_the_defaults_of_the_head():
    from classify.heads.dense import DenseHead

    signature = inspect.signature(DenseHead)
    assert asdict(DenseOptions()) == {
        field.name: signature.parameters[field.name].default for field in fields(DenseOptions)
    }


def check_training(training, logs):
    """TensorBoard's own reader finds the same figures in the logs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    assert training["epochs"] == 3
    assert training["best_epoch"] == 1 + int(np.argmin(training["val_loss"]))
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(logs / part))
        events.Reload()
        for name in ("loss", "accuracy"):
            curve = [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(f"epoch_{name}")]
            np.testing.assert_allclose(training[prefix + name], curve, atol=6e-6)


@pytest.mark.slow
def test_the_dense_head_is_compared_and_writes_its_curves(make_store, tmp_path):
    out = tmp_path / "artifacts" / "runs" / "posters"
    dense = DenseOptions(units=(8,), epochs=3)
    done = compare([make_store(n_features=6)], heads=("dense",), out=out, dense=dense, jobs=1)
    result = done.record["results"][0]
    assert result["status"] == "ok"
    assert result["params"]["units"] == [8]
    assert "log_dir" not in result["params"]
    assert done.tensorboard == tmp_path / "artifacts" / "tensorboard" / "posters"
    check_training(result["training"], done.tensorboard / "efficientnet_lite0__dense")
    assert done.record["results"][1]["training"] is None  # the baseline's
    again = compare(
        [make_store(n_features=6)],
        heads=("dense",),
        out=tmp_path / "again",
        dense=dense,
        jobs=1,
        fresh=True,
    )
    assert without_times(again.record) == without_times(done.record)
    assert again.tensorboard == tmp_path / "again" / "tensorboard"


@pytest.mark.slow
def test_a_class_of_two_groups_still_has_its_dense_head(run):
    done = run(
        ("dense",), store={"counts": {"train": 2, "test": 3}}, dense=DenseOptions(units=(4,), epochs=2)
    )
    result = done.record["results"][0]
    assert result["status"] == "ok"
    assert result["cv_balanced_accuracy"] is None
    assert result["params"]["scaling"] == "standardise"
    assert "not searched" in result["notes"][0]
    assert done.recommended["head"] == "dense"  # the only one there is


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1: expected a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"device": "gpu0"}, "--device gpu0: expected auto, cpu, gpu or gpu:N"),
        ({"gpu_memory": 2.0}, r"--gpu-memory 2\.0: expected a fraction"),
        ({"heads": ("dense",), "dense": DenseOptions(dropout=1.5)}, r"dropout is 1\.5"),
        ({"heads": ("dense",), "dense": DenseOptions(units=(0,))}, "units is 0"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(FolioError, match=message):
        compare([tmp_path / "nowhere.h5"], **{"heads": ("logreg",), **options})


@pytest.mark.parametrize(
    ("heads", "device", "there", "place"),
    [
        (("dense",), "auto", 0, "cpu"),
        (("dense",), "cpu", 1, "cpu"),
        (("dense",), "auto", 1, "auto of [(8, 9)]"),
        (("dense",), "gpu:0", 1, "gpu:0 of [(8, 9)]"),
        (("dense",), "gpu:0", 0, "gpu:0 of []"),  # nothing that was computed on a CPU does for that
        (("logreg",), "auto", 1, "cpu"),
    ],
)
def test_the_cache_depends_on_the_gpu(monkeypatch, heads, device, there, place):
    monkeypatch.setattr("featurize.engines.select.gpus", lambda: [SimpleNamespace(capability=(8, 9))] * there)
    assert task_cache(heads, device, fresh=False).device == place


def test_logs_that_cannot_be_moved_stay_in_the_run(tmp_path):
    (tmp_path / "tensorboard").write_text("mine")
    (tmp_path / "new" / "tensorboard").mkdir(parents=True)
    folder = tmp_path / "runs" / "posters"
    assert move_logs(tmp_path / "new", folder) == folder / "tensorboard"
    assert (tmp_path / "new" / "tensorboard").is_dir()


def test_an_impossible_output_folder_is_a_one_line_error(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CompareError, match=r"cannot be created, because .*file is a file\. Choose another"):
        run(("logreg",), out="file/run")
    with pytest.raises(CompareError, match=r"cannot be created \(File name too long"):
        run(("logreg",), out="x" * 300)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.report
def test_a_run_has_its_report(run):
    done = run(heads=("nearest-mean",))
    assert done.report == done.folder / "report.html"
    for name in ("report.html", "leaderboard.md", "figures/leaderboard.svg"):
        assert (done.folder / name).is_file()
    (note,) = done.notes
    assert note.startswith("60 images are shown with the store's thumbnail of 32 pixels")
    assert done.record["made"]["options"]["report"] is True
    run(heads=("nearest-mean",), overwrite=True, report=False)
    assert not (done.folder / "report.html").exists()
    assert not (done.folder / "figures").exists()


@pytest.mark.report
def test_no_report_is_written_with_report_false(run, monkeypatch):
    monkeypatch.setattr("classify.report.report.make_report", lambda *args: pytest.fail("made"))
    done = run(heads=("nearest-mean",), report=False)
    assert (done.report, done.notes) == (None, ())
    assert not any((done.folder / name).exists() for name in ("report.html", "leaderboard.md", "figures"))


@pytest.mark.report
@pytest.mark.parametrize("error", [CompareError("no room"), OSError(28, "no room")])
def test_a_report_that_fails_does_not_lose_the_run(run, monkeypatch, error):
    def fail(folder):
        raise error

    monkeypatch.setattr("classify.report.report.make_report", fail)
    done = run(heads=("nearest-mean",))
    assert done.report is None
    (note,) = done.notes
    assert note.startswith("no report: ")
    assert "no room" in note
    assert json.loads((done.folder / "results.json").read_text()) == done.record
    assert len(read_predictions(done.folder)) == 40
