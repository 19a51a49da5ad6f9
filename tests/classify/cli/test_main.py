"""The command line: thin, documented, quick to start, one line for an error."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from featurize import FolioError
from featurize.extraction.inference import ImageFeatures

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("classify.cli.main.silence_libraries", lambda *, verbose: None)

    def call(*words):
        return CliRunner().invoke(cli, [str(word) for word in words])

    return call


@pytest.fixture
def network(monkeypatch):
    def image_features(paths, config, **options):
        good = [i for i, path in enumerate(paths) if path.suffix == ".jpg"]
        problems = {i: "not an image" for i in range(len(paths)) if i not in good}
        features = np.ones((len(good), 8), np.float32)
        return ImageFeatures(features=features, index=np.array(good, dtype=np.int64), problems=problems)

    monkeypatch.setattr("featurize.extraction.inference.image_features", image_features)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_documented_with_an_example(name):
    command = cli.commands[name]
    assert f"classify {name}" in command.help
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_help_and_heads_import_nothing_heavy():
    code = (
        "import sys\n"
        "from classify.cli.main import cli\n"
        "for words in (['--help'], ['compare', '--help'], ['heads']):\n"
        "    try: cli(words)\n"
        "    except SystemExit: pass\n"
        "heavy = ('tensorflow', 'keras', 'sklearn', 'scipy', 'h5py', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_heads_lists_grids(call):
    done = call("heads")
    assert "svm-rbf: RBF SVM" in done.output
    assert "searched: gamma_factor = 0.001, 0.01, 0.1, 1, 10" in done.output
    assert done.output.splitlines()[-1].endswith("--levels`), searched too: levels = final, all")
    assert [head["name"] for head in json.loads(call("heads", "--json").output)] == [
        "dense",
        "logreg",
        "svm-linear",
        "svm-rbf",
        "ordinal-dense",
        "ordinal-logistic",
        "ordinal-svm",
        "nearest-mean",
        "knn",
        "lda",
        "baseline",
    ]


def test_the_last_line_of_a_comparison_predicts_new_images(call, make_store, network, tmp_path):
    store = make_store(counts={"train": 10, "test": 5})
    done = call("compare", store, "--heads", "logreg,svm-linear", "--jobs", 1)
    assert done.exit_code == 0, done.output
    assert "Classes: award, low (positive: low)" in done.output
    assert "on the 10 test images, which were used once; one image is 10.0 %" in done.output
    last = done.output.splitlines()[-1]
    assert last == "classify predict artifacts/runs/posters IMAGES --out grades.csv"
    (tmp_path / "IMAGES").mkdir()
    (tmp_path / "IMAGES" / "a.jpg").write_text("a")
    (tmp_path / "IMAGES" / "b.txt").write_text("b")
    graded = call(*shlex.split(last)[1:])
    assert graded.exit_code == 0, graded.output
    assert "1 predicted, 1 failed: grades.csv" in graded.output
    assert len((tmp_path / "grades.csv").read_text(encoding="utf-8-sig").splitlines()) == 3


def test_a_folder_with_a_space_is_quoted(call, make_store):
    done = call("compare", make_store(counts={"train": 6, "test": 5}), "--heads", "logreg", "--out", "my run")
    assert done.output.splitlines()[-1] == "classify predict 'my run' IMAGES --out grades.csv"


def test_the_leaderboard_fits_and_has_a_row_a_head(call, make_store):
    done = call("compare", make_store(counts={"train": 6, "test": 5}), "--heads", "logreg")
    lines = done.output.splitlines()
    header = next(line for line in lines if "accuracy" in line)
    for name in ("store", "head", "CV", "accuracy", "bal. acc.", "macro-F1", "ROC-AUC", "log loss", "fit s"):
        assert name in header
    assert any("logreg *" in line for line in lines)
    assert any("baseline" in line for line in lines)
    assert max(map(len, lines[: lines.index(header) + 4])) <= 100


def test_exit_code_without_a_fitted_head(call, make_store, monkeypatch):
    from classify.heads.logistic import LogisticHead

    def broken(self, *arguments, **options):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(LogisticHead, "fit", broken)
    store = make_store(counts={"train": 6, "test": 5})
    done = call("compare", store, "--heads", "logreg", "--out", "one")
    assert done.exit_code == 1
    assert "no head could be fitted" in done.stderr
    alone = call("compare", store, "--heads", "baseline", "--out", "two")
    assert alone.exit_code == 0
    assert "Only the baseline was compared" in alone.stdout


def test_a_record_as_json(call, make_store):
    done = call("compare", make_store(counts={"train": 6, "test": 5}), "--heads", "logreg", "--json")
    assert json.loads(done.output)["recommended"]["head"] == "logreg"


def test_fit_writes_one_bundle(call, make_store, tmp_path):
    store = make_store(counts={"train": 6, "test": 5})
    done = call("fit", store, "--head", "svm-rbf", "--param", "C=10", "--param", "gamma_factor=0.1")
    assert done.exit_code == 0, done.output
    assert "Hyper-parameters (given): C=10, class_weight=None, gamma_factor=0.1" in done.output
    bundle = tmp_path / "artifacts" / "bundles" / "posters" / "efficientnet_lite0__svm-rbf"
    params = json.loads((bundle / "manifest.json").read_text())["params"]
    assert {"C": 10, "gamma_factor": 0.1, "scaling": "standardise", "tol": 1e-6}.items() <= params.items()


def test_fit_like_a_run_prints_the_origin_of_the_parameters(call, make_store):
    store = make_store(counts={"train": 10, "test": 5})
    assert call("compare", store, "--heads", "logreg").exit_code == 0
    done = call("fit", store, "--head", "logreg", "--like", "artifacts/runs/posters")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("logreg on 20 images of efficientnet_lite0: fitted in 0.")
    assert lines[0].endswith(" s by an earlier run, read from the cache (fit again with --fresh)")
    assert lines[1].startswith("Hyper-parameters (from artifacts/runs/posters): C=")
    assert lines[2].startswith("Test accuracy: ")
    assert lines[2].endswith(" on 10 images")
    bundle = "artifacts/bundles/posters/efficientnet_lite0__logreg"
    assert lines[3:] == [
        f"Bundle: {bundle}",
        "Predict the grades of new images with:",
        f"classify predict {bundle} IMAGES --out grades.csv",
    ]
    anew = call("fit", store, "--head", "logreg", "--fresh", "--overwrite")
    assert "earlier run" not in anew.output
    assert "Hyper-parameters (searched in folds, balanced accuracy " in anew.output


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (["--like", "run", "--epochs", "3", "--units", "8,4"], {"epochs": 3, "units": (8, 4)}),
        (["--like", "run", "--epochs", "3", "--param", "epochs=5"], {"epochs": 5}),
        (["--like", "run"], None),
        (["--epochs", "3"], None),  # an option of the search, not instead of it
    ],
)
def test_typed_options_take_precedence_over_like(call, monkeypatch, words, params):
    asked = {}

    def fit(store, **options):
        asked.update(options)
        raise FolioError("enough")

    monkeypatch.setattr("classify.jobs.fit.fit", fit)
    assert call("fit", "store.h5", "--head", "dense", *words).stderr.endswith(": enough\n")
    assert asked["params"] == params


def test_a_second_comparison_reads_the_cache(call, make_store):
    store = make_store(counts={"train": 6, "test": 5})
    for more, said in ((), False), (["--overwrite"], True), (["--overwrite", "--fresh"], False):
        done = call("compare", store, "--heads", "logreg", *more)
        assert ("1 head from the cache of earlier runs" in done.output) is said


def test_predict_prints_a_table_or_json(call, make_store, network, tmp_path):
    call("fit", make_store(counts={"train": 6}), "--head", "logreg", "--param", "C=1", "--out", "b")
    (tmp_path / "a.jpg").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    table = call("predict", "b", "a.jpg", "b.txt")
    assert "not an image" in table.output
    found = json.loads(call("predict", "b", "a.jpg", "--json").output)
    assert found[0]["path"] == "a.jpg"
    assert found[0]["grade"] in ("award", "low")
    nothing = call("predict", "b", "b.txt", "--out", "g.csv")
    assert nothing.exit_code == 1
    assert (tmp_path / "g.csv").exists()
    assert "no image could be read" in nothing.stderr


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("compare", "nowhere.h5"), "nowhere.h5: no such store. Create one with: featurize extract DATA", 1),
        (("predict", "nowhere", "x.jpg"), "x.jpg: no such file or folder", 1),
        (("fit", "nowhere.h5", "--head", "forest"), "'forest' is not one of", 2),
        (("fit", "nowhere.h5", "--head", "logreg", "--param", "C"), "expected NAME=VALUE", 2),
        (("compare", "nowhere.h5", "--seed", "-1"), "0<=x<=4294967295", 2),
        (
            ("predict", "nowhere", "x.jpg", "--device", "gpu0"),
            "--device gpu0: expected auto, cpu, gpu or gpu:N",
            1,
        ),
        (("compare", "nowhere.h5", "--units", "a,b"), "expected comma-separated whole numbers", 2),
    ],
)
def test_an_error_is_one_line_with_the_next_step(call, words, message, code):
    done = call(*words)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.output + done.stderr


def test_a_whole_run_in_a_process_of_its_own(make_store, tmp_path):
    store = make_store(counts={"train": 6, "test": 5})
    code = (
        "import sys; from classify.cli.main import cli\n"
        "cli(sys.argv[1:], prog_name='classify', standalone_mode=False)\n"
        "print('tensorflow' in sys.modules)"
    )
    words = ["compare", str(store), "--heads", "logreg", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"  # no dense head, no TensorFlow
    assert lines[-2].startswith("classify predict ")
    assert (tmp_path / "run" / "results.json").is_file()


def children(pid):
    """The joblib workers that `pid` has started, by /proc: `ps` cuts a command line at $COLUMNS."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            of_ours = f"\nPPid:\t{pid}\n" in status.read_text()
            if of_ours and "popen_loky" in (status.parent / "cmdline").read_text():
                found.append(int(status.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds workers by /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_command_leaves_no_files(make_store, tmp_path, name):
    store = make_store(counts={"train": 900, "test": 20}, n_features=600, distance=1.0)
    out = tmp_path / "out" / "run"
    words = ["compare", str(store), "--heads", "svm-rbf", "--jobs", "2", "--fresh", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from classify.cli.main import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (workers := children(process.pid)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    assert list(out.parent.glob(".run.*.tmp"))
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert stderr.splitlines() == [f"classify: stopped. Run it again with: classify {shlex.join(words)}"]
    assert list(out.parent.iterdir()) == []
    assert not [pid for pid in workers if alive(pid)]


@pytest.mark.parametrize("command", [("compare",), ("fit", "--head", "logreg")])
@pytest.mark.parametrize(
    ("memory", "said"),
    [("10", "a number and a unit, such as 4GB"), ("4XB", "a number"), ("50MB", "too small")],
)
def test_an_invalid_limit_is_a_one_line_error(call, make_store, command, memory, said):
    done = call(*command, make_store(), "--memory", memory)
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert f": --memory {memory}: " in done.output
    assert said in done.output
