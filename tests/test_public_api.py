"""Public names of the two packages: exact lists, lazy imports, help, single paths and names."""

from __future__ import annotations

import inspect
import pydoc
import re
import rlcompleter
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import classify
import featurize

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    "featurize": {
        *("extract", "scan", "verify", "repair", "open_store", "Store", "BACKBONES", "__version__"),
        *("FolioError", "ClusterError", "ConfigError", "DatasetError", "EngineError", "ImageError"),
        *("StoreError", "WeightsError"),
    },
    "classify": {
        *("compare", "fit", "predict", "load_bundle", "export", "serve", "HEADS"),
        *("FolioError", "BundleError", "CompareError", "ExportError"),
    },
}
MODULES = {"featurize": featurize, "classify": classify}
EVERY_NAME = [(package, name) for package, names in NAMES.items() for name in sorted(names)]

packages = pytest.mark.parametrize("package", NAMES)


def run_python(code: str) -> str:
    """Return what a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@packages
def test_exact_names(package):
    module = MODULES[package]
    assert len(module.__all__) == len(set(module.__all__))
    assert set(module.__all__) == NAMES[package]
    assert dir(module) == sorted(NAMES[package])


@pytest.mark.parametrize(("package", "name"), EVERY_NAME)
def test_every_name_can_be_imported(package, name):
    value = getattr(MODULES[package], name)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert value.__name__ == name
        assert value.__doc__


@packages
def test_star_import(package):
    namespace: dict[str, object] = {}
    exec(f"from {package} import *", namespace)
    assert set(namespace) - {"__builtins__"} == NAMES[package]


def test_the_errors_have_one_base_class():
    assert classify.FolioError is featurize.FolioError
    errors = [getattr(MODULES[package], name) for package, name in EVERY_NAME if name.endswith("Error")]
    assert all(issubclass(error, featurize.FolioError) for error in errors)
    defined = {name for name in vars(sys.modules["featurize.errors"]) if name.endswith("Error")}
    assert defined <= NAMES["featurize"]
    defined = {name for name in vars(sys.modules["classify.errors"]) if name.endswith("Error")}
    assert defined <= NAMES["classify"]


def test_imports_are_lazy():
    """The two packages load the standard library only; a name loads its own modules."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import featurize, classify\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names))\n"
        "print(sorted(name for name in sys.modules if name.startswith(('featurize.', 'classify.'))))\n"
        "featurize.ConfigError, classify.BundleError\n"
        "print('numpy' in sys.modules, 'h5py' in sys.modules)\n"
        "featurize.extract, classify.compare, classify.serve\n"
        "heavy = ('tensorflow', 'keras', 'openvino', 'sklearn', 'flask')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    top_level, submodules, light, heavy = run_python(code).splitlines()
    assert (top_level, submodules) == ("['classify', 'featurize']", "['featurize.base']")
    assert (light, heavy) == ("False False", "[]")


@packages
def test_submodules_do_not_show_up(package):
    """Importing a submodule sets an attribute of the package, which dir() and `import *` leave out."""
    module = {"featurize": "featurize.store.reader", "classify": "classify.jobs.compare"}[package]
    code = f"import {module}; import {package}; print(*dir({package})); from {package} import *"
    assert run_python(code).split() == sorted(NAMES[package])


@packages
def test_tab_completion(package):
    completer = rlcompleter.Completer({package: MODULES[package]})
    shown = {match.rstrip("(").partition(".")[2] for match in completer.attr_matches(f"{package}.")}
    assert shown == {name for name in NAMES[package] if not name.startswith("_")}


@packages
def test_the_docstring_has_one_line_per_name(package):
    lines = re.findall(r"^    (\w+)  +(\S.*)$", MODULES[package].__doc__, flags=re.MULTILINE)
    assert [name for name, _ in lines] == list(dict(lines))
    assert set(dict(lines)) == NAMES[package]


@packages
def test_help(package):
    text = pydoc.render_doc(MODULES[package], renderer=pydoc.plaintext)
    description, _, rest = text.partition("PACKAGE CONTENTS")
    for name in NAMES[package]:
        assert re.search(rf"^        {name}  ", description, flags=re.MULTILINE), name
    for name in NAMES[package] - {"__version__"}:
        assert re.search(rf"^    (class )?{name}\b", rest, flags=re.MULTILINE), name


@pytest.mark.parametrize(
    ("package", "word", "hint"),
    [
        ("featurize", "extrct", ". Did you mean 'extract'?"),
        ("featurize", "backbones_", ""),
        ("featurize", "StoreErrors", ". Did you mean 'StoreError'?"),
        ("classify", "comparee", ". Did you mean 'compare'?"),
        ("classify", "evaluate", ""),
        ("classify", "nothing_like_it", ""),
    ],
)
def test_an_unknown_name(package, word, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(MODULES[package], word)
    assert str(caught.value) == f"module {package!r} has no attribute {word!r}{hint}"
    assert not hasattr(MODULES[package], word)


def test_a_traceback_has_one_suggestion():
    code = "import featurize; featurize.extrct"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    last = done.stderr.splitlines()[-1]
    assert last == "AttributeError: module 'featurize' has no attribute 'extrct'. Did you mean 'extract'?"


FUNCTIONS = [
    (package, name)
    for package, name in EVERY_NAME
    if inspect.isfunction(getattr(MODULES[package], name)) or name == "Store"
]


@pytest.mark.parametrize(("package", "name"), FUNCTIONS)
def test_only_the_subject_is_positional(package, name):
    parameters = list(inspect.signature(getattr(MODULES[package], name)).parameters.values())
    positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= (2 if name == "predict" else 1)
    assert not [one.name for one in parameters if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


PATHS = {
    "featurize.extract": ("data", "out", "weights"),
    "featurize.scan": ("root",),
    "featurize.verify": ("path", "data", "weights"),
    "featurize.repair": ("path", "data", "weights"),
    "featurize.open_store": ("path",),
    "classify.compare": ("stores", "out"),
    "classify.fit": ("store", "like", "out"),
    "classify.predict": ("bundle_or_run", "inputs", "weights"),
    "classify.load_bundle": ("path",),
    "classify.export": ("bundle_or_run", "out", "weights", "check"),
    "classify.serve": ("bundle_or_run", "weights"),
}


@pytest.mark.parametrize("function", PATHS)
def test_paths_may_be_str_or_any_path_like(function):
    package, name = function.split(".")
    parameters = inspect.signature(getattr(MODULES[package], name)).parameters
    for path in PATHS[function]:
        assert "str | os.PathLike[str]" in parameters[path].annotation, path


def test_every_function_is_listed_with_its_paths():
    assert {f"{package}.{name}" for package, name in FUNCTIONS} - {"featurize.Store"} == set(PATHS)


# ---- a single path or name where several are allowed: on real files, with a real network


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Noise in two brightnesses, 6 training and 2 test images per class, and 3 new ones."""
    root = tmp_path_factory.mktemp("public") / "grades"
    generator = np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 2), ("new", 3)):
        for name, low in (("high", 120), ("low", 0)):
            for number in range(n):
                file = root / split / ("" if split == "new" else name) / f"{name}{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(low, low + 120, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(scope="module")
def store(data, tmp_path_factory) -> Path:
    options = {"input_size": 32, "views": 0, "precision": "float32", "workers": 1}
    results = featurize.extract(
        str(data),
        backbones="efficientnet_lite0",
        order="low,high",
        out=str(tmp_path_factory.mktemp("stores")),
        **options,
    )
    assert [result.backbone for result in results] == ["efficientnet_lite0"]
    assert (results[0].classes, results[0].ordered) == (("low", "high"), True)
    return results[0].path


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"out": str(out), "jobs": 1, "report": False}
    comparison = classify.compare(
        str(store), heads="nearest-mean", study="leaks", order="low,high", **options
    )
    assert {result["head"] for result in comparison.record["results"]} == {"nearest-mean", "baseline"}
    assert list(comparison.record["studies"]) == ["leaks"]
    return out


def test_scan_takes_an_order_as_text(data):
    report = featurize.scan(str(data), order="low,high", workers=1)
    assert report == featurize.scan(data, order=("low", "high"), workers=1)


def test_verify_repair_and_open_store_take_text(store, data):
    verification = featurize.verify(str(store), data=str(data), sample=0)
    assert verification.clean
    assert featurize.repair(str(store), data=str(data), sample=0).result is None
    with featurize.open_store(str(store)) as opened:
        assert opened.plain().shape[0] == 22


def test_fit_takes_text(store, run, tmp_path):
    fitted = classify.fit(
        str(store), head="nearest-mean", like=str(run), order="low,high", out=str(tmp_path / "bundle"), jobs=1
    )
    assert classify.load_bundle(str(fitted.bundle)).classes == ("low", "high")


@pytest.mark.parametrize("kind", [str, Path])
def test_predict_takes_one_path(run, data, kind):
    """The path is absolute: its first character is the root of the file system."""
    file = data / "new" / "high0.png"
    (row,) = classify.predict(str(run), kind(file)).grades
    assert (row.path, row.problem) == (str(file), "")
    assert len(classify.predict(run, kind(data / "new")).grades) == 6


def test_export_takes_one_path(run, data, tmp_path):
    file = data / "new" / "high0.png"
    result = classify.export(str(run), format="keras", out=str(tmp_path / "a.keras"), check=str(file))
    assert (result.check.n_images, result.check.is_synthetic) == (1, False)


def test_serve_takes_text_and_returns_after_ctrl_c(run, monkeypatch):
    ready = []

    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr("classify.deploy.serve.server.Server.run", interrupt)
    classify.serve(str(run), port=0, on_ready=lambda server: ready.append(server.url))
    assert [url.startswith("http://127.0.0.1:") for url in ready] == [True]
