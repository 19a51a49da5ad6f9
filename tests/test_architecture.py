"""Who may import whom, read from the source; and what a fresh process loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("featurize", "classify")
    for path in sorted((ROOT / package).rglob("*.py"))
}
NETWORK_LIBRARIES = ("tensorflow", "keras", "torch", "openvino")

# Package or module → those above which it stands: what it may import, and all that these may import.
# Type-only and lazy imports count too.
ON_TOP_OF = {
    "featurize.errors": (),
    "featurize._version": (),
    "featurize.base": ("featurize.errors", "featurize._version"),
    "featurize.images": ("featurize.base",),
    "featurize.backbones": ("featurize.base",),
    "featurize.config": ("featurize.images", "featurize.backbones"),
    "featurize.engines": ("featurize.config",),
    "featurize.store": ("featurize.config",),
    "featurize.extraction": ("featurize.engines", "featurize.store"),
    "featurize.console": ("featurize.extraction",),
    "featurize.cli": ("featurize.console",),
    "classify.errors": ("featurize.errors",),
    "classify.data": ("classify.errors", "featurize.extraction"),
    "classify.heads": ("classify.data",),
    "classify.io": ("classify.heads",),
    "classify.model_selection": ("classify.io",),
    "classify.deploy": ("classify.model_selection",),
    "classify.evaluation": ("classify.deploy",),
    "classify.report": ("classify.evaluation",),
    "classify.jobs": ("classify.report",),
    "classify.cli": ("classify.jobs",),
}
AT_MOST = 10  # things at the top level of a package, not counting these:
NOT_COUNTED = {"__init__", "__main__", "_version", "errors"}


def package_of(module: str) -> str:
    """Return the row of the table that a module belongs to."""
    return ".".join(module.split(".")[:2])


def allowed(package: str) -> set[str]:
    """Return all packages that a package may import, itself included."""
    return {package}.union(*(allowed(below) for below in ON_TOP_OF[package]))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported, in full (`from a import b` is a.b), wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def module_of(imported: str) -> str | None:
    """Return which of our modules an imported name belongs to."""
    while imported:
        if imported in SOURCES:
            return imported
        imported = imported.rpartition(".")[0]
    return None


ARROWS = {
    module: {found for name in imports(parsed(module)) if (found := module_of(name)) and found != module}
    for module in SOURCES
}


def test_every_package_is_in_the_table():
    assert {package_of(module) for module in SOURCES} - {"featurize", "classify"} == set(ON_TOP_OF)


@pytest.mark.parametrize("package", ON_TOP_OF)
def test_a_package_imports_only_what_the_table_allows(package):
    for module in (name for name in SOURCES if package_of(name) == package):
        found = {package_of(target) for target in ARROWS[module]}
        assert found <= allowed(package), f"{module} imports {found - allowed(package)}"


def test_no_module_imports_the_public_names():
    """They are for users: our own code imports each name from the module that has it."""
    assert not {module for module, targets in ARROWS.items() if targets & {"featurize", "classify"}}


def test_imports_go_in_no_circle():
    """Type-only and lazy imports included; the public names of the two packages are all lazy."""
    arrows = {m: set(targets) for m, targets in ARROWS.items() if m not in ("featurize", "classify")}
    while free := [module for module, targets in arrows.items() if not targets]:
        for module in free:
            del arrows[module]
        for targets in arrows.values():
            targets.difference_update(free)
    assert not arrows, f"these modules import each other in a circle: {sorted(arrows)}"


@pytest.mark.parametrize("package", ["featurize", "classify"])
def test_the_top_level_is_small(package):
    things = {path.stem for path in (ROOT / package).iterdir() if path.is_dir() or path.suffix == ".py"}
    counted = things - NOT_COUNTED - {"__pycache__"}
    assert len(counted) <= AT_MOST, counted


@pytest.mark.parametrize("package", ["featurize", "classify"])
def test_no_top_level_module_has_the_name_of_a_public_function(package):
    """``classify/compare.py`` would replace the function ``classify.compare`` once it is imported."""
    module = __import__(package)
    things = {path.stem for path in (ROOT / package).iterdir()}
    assert not things & set(module.__all__) - {"__version__"}


def test_pickle_is_admitted_once():
    """The reader of PyTorch's file is built on an unpickler that admits next to nothing."""
    for module in SOURCES:
        found = set(imports(parsed(module))) & {
            "pickle",
            "cPickle",
            "dill",
            "cloudpickle",
            "joblib.load",
            "joblib.dump",
        }
        assert not found or module == "featurize.backbones.lite0", module


def test_the_library_prints_nothing():
    for module in SOURCES:
        calls = [node.func for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], module


def test_no_module_without_a_name():
    assert not {name.rpartition(".")[2] for name in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Return which of these packages a fresh Python has loaded after some code."""
    answer = f"import sys; print('\\n' + ' '.join(n for n in {names!r} if n in sys.modules))"
    return run_python(f"{code}\n{answer}").splitlines()[-1].split()


def test_the_check_itself_sees_a_loaded_library():
    assert loaded_after("import json", ("json", "tensorflow")) == ["json"]


def test_store_and_dataset_load_no_network_library():
    assert loaded_after("import featurize.store.reader, featurize.images.dataset", NETWORK_LIBRARIES) == []


def test_classify_loads_no_network_library():
    """Everything but the dense head works on machines, and in workers, that never import TensorFlow."""
    modules = [
        name
        for name in SOURCES
        if name.startswith("classify") and not name.startswith("classify.heads.dense")
    ]
    assert loaded_after(f"import {', '.join(modules)}", NETWORK_LIBRARIES) == []


@pytest.mark.parametrize("package", ["featurize", "classify"])
def test_importing_a_package_is_cheap(package):
    heavy = (*NETWORK_LIBRARIES, "sklearn", "scipy", "h5py", "cv2", "PIL", "pandas")
    assert loaded_after(f"import {package}", heavy) == []


@pytest.mark.parametrize("command", ["featurize", "classify"])
def test_help_is_cheap(command):
    """Of the command and of each of its subcommands."""
    code = f"""
import click, {command}.cli.main as module
group = next(value for value in vars(module).values() if isinstance(value, click.Group))
for arguments in (["--help"], *([name, "--help"] for name in group.commands)):
    try:
        group.main(arguments, prog_name="{command}")
    except SystemExit as end:
        assert end.code == 0, arguments
"""
    assert loaded_after(code, (*NETWORK_LIBRARIES, "sklearn")) == []
