"""The design's rules about who may import whom, held by reading the source and in fresh processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import featurize

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("featurize", "classify")
    for path in sorted((ROOT / package).rglob("*.py"))
}
NETWORK_LIBRARIES = ("tensorflow", "keras", "torch", "openvino")
# Modules that know the order of the steps, or talk to the user: the steps themselves know nothing of them.
JOBS = ("extraction", "inference", "compare", "predict", "cli")
LEAVES = (
    *("featurize.errors", "featurize.dataset", "featurize.images", "featurize.views", "featurize.backbones"),
    *(
        "featurize.weights",
        "featurize.engines",
        "featurize.store",
        "featurize.store_writer",
        "featurize.config",
    ),
    *("featurize.folders", "featurize.decode", "featurize.nets"),
    *("classify.samples", "classify.splits", "classify.heads", "classify.metrics", "classify.bundles.bundle"),
)


def is_within(module: str, parents: tuple[str, ...]) -> bool:
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def imports(tree: ast.AST, *, top_level: bool = False) -> Iterator[str]:
    """Yield what is imported, in full (`from a import b` is a.b), except for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node, top_level=top_level)


def parsed(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def modules_of(imported: str) -> str | None:
    """Return which of our modules an imported name belongs to."""
    while imported:
        if imported in SOURCES:
            return imported
        imported = imported.rpartition(".")[0]
    return None


def test_both_packages_are_read():
    assert {"featurize", "featurize.store", "featurize.engines", "classify", "classify.heads"} <= set(SOURCES)


@pytest.mark.parametrize("module", [name for name in SOURCES if is_within(name, ("featurize",))])
def test_featurize_imports_nothing_from_classify(module):
    assert [name for name in imports(parsed(module)) if is_within(name, ("classify",))] == []


@pytest.mark.parametrize("module", [name for name in SOURCES if is_within(name, ("classify",))])
def test_classify_uses_only_what_featurize_exports(module):
    tree = parsed(module)
    used = {name.removeprefix("featurize.") for name in imports(tree) if is_within(name, ("featurize",))}
    used |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "featurize"
    }
    assert used - {"featurize"} <= set(featurize.__all__)


@pytest.mark.parametrize("module", [name for name in SOURCES if is_within(name, LEAVES)])
def test_a_step_knows_nothing_of_the_jobs(module):
    jobs = tuple(name for name in SOURCES if name.rpartition(".")[2] in JOBS)
    assert [name for name in imports(parsed(module)) if is_within(name, jobs)] == []


def test_nothing_imports_a_command_line():
    commands = ("featurize.cli", "classify.cli")
    for module in SOURCES:
        assert module in commands or not any(is_within(name, commands) for name in imports(parsed(module)))


def test_importing_goes_in_no_circle():
    """A registry may reach for what it lists inside a function; at import time arrows run one way."""
    arrows = {
        module: {modules_of(name) for name in imports(parsed(module), top_level=True)}
        - {None, module, "featurize", "classify"}
        for module in SOURCES
    }
    while free := [module for module, targets in arrows.items() if not targets]:
        for module in free:
            del arrows[module]
        for targets in arrows.values():
            targets.difference_update(free)
    assert not arrows, f"these modules import each other in a circle: {arrows}"


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
        assert not found or module == "featurize.nets.torch_file", module


def test_the_library_prints_nothing():
    for module in SOURCES:
        calls = [node.func for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], module


def test_no_room_without_a_name():
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
    assert loaded_after("import featurize.store, featurize.dataset", NETWORK_LIBRARIES) == []


def test_classify_loads_no_network_library():
    """Everything but the dense head works on machines, and in workers, that never import TensorFlow."""
    modules = [n for n in SOURCES if is_within(n, ("classify",)) and not n.startswith("classify.heads.dense")]
    assert loaded_after(f"import {', '.join(modules)}", NETWORK_LIBRARIES) == []


@pytest.mark.parametrize("package", ["featurize", "classify"])
def test_importing_a_package_is_cheap(package):
    heavy = (*NETWORK_LIBRARIES, "sklearn", "scipy", "h5py", "cv2", "PIL", "pandas")
    assert loaded_after(f"import {package}", heavy) == []


@pytest.mark.parametrize("command", ["featurize", "classify"])
def test_help_is_cheap(command):
    """Of the command and of each of its subcommands."""
    code = f"""
import click, {command}.cli as module
group = next(value for value in vars(module).values() if isinstance(value, click.Group))
for arguments in (["--help"], *([name, "--help"] for name in group.commands)):
    try:
        group.main(arguments, prog_name="{command}")
    except SystemExit as end:
        assert end.code == 0, arguments
"""
    assert loaded_after(code, (*NETWORK_LIBRARIES, "sklearn")) == []
