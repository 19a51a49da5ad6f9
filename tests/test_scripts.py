"""scripts/run, scripts/test and .ci/run on a stand-in Python, which writes down what it was asked to do.

The stand-in makes environments and installs in no time; the real thing is what CI itself runs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# Called as python3 by find_python, and copied into the environments that it makes.
STAND_IN = r"""#!/bin/bash
name=$(basename "$0")
case "$1" in
    -) cat >/dev/null; echo "${STAND_IN_VERDICT:-ok}"; exit ;;
    -c) exit ;;
esac
echo "$name $*" >>"$STAND_IN_LOG"
case "$name $*" in
    *" -m venv "*)
        mkdir -p "$3/bin"
        for copy in python featurize classify ruff; do cp "$0" "$3/bin/$copy"; done ;;
    *" -m pip "*)
        if [[ -n ${STAND_IN_HANG:-} ]]; then touch "$STAND_IN_HANG"; sleep 60; fi
        if [[ -n ${STAND_IN_PIP_FAILS:-} ]]; then echo "no matching distribution"; exit 1; fi ;;
    *make_sample.py*) mkdir -p "$2/new"; touch "$2/new/page.jpg" ;;
    "featurize "*) exit "${STAND_IN_EXTRACT:-0}" ;;
esac
"""


class Checkout:
    """A copy of what the scripts need, and the stand-in that they will find."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        for name in ("scripts", ".ci"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.log = folder / "log"
        self.log.touch()
        self.python = folder / "python3"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, "PYTHON": str(self.python), "STAND_IN_LOG": str(self.log), **extra}

    def call(self, script: str, *arguments: str, cwd: Path | None = None, **extra: str):
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd=cwd or self.root,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """Return what was called since the last look."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines

    def installed(self) -> list[str]:
        """Return which steps of an installation were taken since the last look."""
        return [step for line in self.calls() for step in ("venv", "pip") if f" -m {step} " in line]


@pytest.fixture
def checkout(tmp_path, bash) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def portfolio(tmp_path) -> Path:
    folder = tmp_path / "my work" / "task 2"
    (folder / "train" / "award").mkdir(parents=True)
    return folder


# ---- scripts/run: the main job


def test_run_does_the_main_job(checkout, portfolio):
    """DATA is meant from where the caller stands; what is written lies in the checkout."""
    done = checkout.call("scripts/run", "task 2", cwd=portfolio.parent)
    assert done.returncode == 0, done.stderr
    assert checkout.calls()[2:] == [
        f"featurize extract {portfolio} --backbone efficientnet_lite0 --out artifacts/features/task 2",
        "classify compare artifacts/features/task 2/efficientnet_lite0.h5"
        " --out artifacts/runs/task 2 --overwrite",
    ]
    for written in (
        "features/task 2/efficientnet_lite0.h5",
        "runs/task 2/report.html",
        "runs/task 2/results.json",
        "runs/task 2/bundles/",
    ):
        assert f"artifacts/{written}" in done.stdout
    assert "grades.csv" not in done.stdout


def test_run_opens_the_report_where_that_is_asked_for(checkout, portfolio):
    done = checkout.call("scripts/run", str(portfolio), "--open")
    assert done.returncode == 0, done.stderr
    assert checkout.calls()[-1] == (
        f"python -m webbrowser file://{checkout.root}/artifacts/runs/task 2/report.html"
    )


@pytest.mark.parametrize("name", ["new", "New", "unlabelled", "UNLABELED", "ungraded"])
def test_run_grades_what_has_no_grade(checkout, portfolio, name):
    (portfolio / name / "entry").mkdir(parents=True)
    (portfolio / name / "entry" / "1.jpg").touch()
    done = checkout.call("scripts/run", str(portfolio))
    assert checkout.calls()[-1] == (
        f"classify predict artifacts/runs/task 2 {portfolio / name} --out artifacts/runs/task 2/grades.csv"
    )
    assert "artifacts/runs/task 2/grades.csv" in done.stdout


def test_run_grades_nothing_where_there_is_nothing(checkout, portfolio):
    (portfolio / "new").mkdir()
    (portfolio / "new" / ".DS_Store").touch()
    checkout.call("scripts/run", str(portfolio))
    assert not any("predict" in call for call in checkout.calls())


def test_run_without_data_draws_the_sample(checkout):
    assert checkout.call("scripts/run").returncode == 0
    calls = checkout.calls()[2:]
    assert calls[0] == "python scripts/make_sample.py artifacts/sample"
    assert calls[1].startswith("featurize extract artifacts/sample ")
    assert calls[3].startswith("classify predict artifacts/runs/sample artifacts/sample/new ")


def test_run_hands_its_options_on(checkout, portfolio):
    options = ["--backbone", "vgg16,vgg19", "--backbone=resnet50", "--views=2", "--order", "low,award"]
    options += ["--study=leaks,views", "--fuse", "--join", "features"]
    checkout.call("scripts/run", *options, str(portfolio), "--heads", "logreg", "--verbose")
    extract, compare = checkout.calls()[2:]
    assert extract.startswith("featurize --verbose extract ")
    assert extract.endswith(
        "--backbone vgg16,vgg19,resnet50 --out artifacts/features/task 2 --views 2 --order low,award"
    )
    stores = " ".join(f"artifacts/features/task 2/{name}.h5" for name in ("vgg16", "vgg19", "resnet50"))
    assert compare.startswith(f"classify --verbose compare {stores} --out")
    assert compare.endswith("--order low,award --study leaks,views --fuse --join features --heads logreg")


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        (["--levels"], "+levels"),
        (["--precision", "bfloat16"], "+bfloat16"),
        (["--levels", "--precision=float16", "--engine", "tensorflow"], "+float16+levels"),
        (["--precision", "float32", "--engine=openvino"], ""),
        (["--precision", "auto"], ""),
    ],
)
def test_run_compares_the_stores_that_were_made(checkout, portfolio, options, suffix):
    """Their names are those that `featurize extract` gives for what it was asked."""
    checkout.call("scripts/run", str(portfolio), *options)
    extract, compare = checkout.calls()[2:]
    words = {word for option in options for word in option.split("=")}
    assert words <= set(extract.split())
    assert f"compare artifacts/features/task 2/efficientnet_lite0{suffix}.h5 --out" in compare


def test_run_stops_where_a_step_fails(checkout, portfolio):
    assert checkout.call("scripts/run", str(portfolio), STAND_IN_EXTRACT="1").returncode == 1
    assert not any("compare" in call for call in checkout.calls())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unknown option --bogus"),
        (["--views"], "--views needs a value"),
        (["--backbone", "--views", "2"], "--backbone needs a value, found '--views'"),
        (["--order="], "--order needs a value, found ''"),
        (["one", "two"], "one DATA folder at a time, found 'one' and 'two'"),
        ([""], "DATA is empty"),
    ],
)
def test_run_refuses_what_it_does_not_know(checkout, arguments, message):
    done = checkout.call("scripts/run", *arguments)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == f"run: {message}"
    assert second.startswith("usage: scripts/run [DATA]")
    assert checkout.calls() == []


def test_run_names_a_folder_that_is_not_there(checkout):
    done = checkout.call("scripts/run", "no/such")
    assert (done.returncode, done.stderr) == (1, "run: no/such: no such folder\n")
    assert checkout.calls() == []


@pytest.mark.parametrize("script", ["scripts/run", "scripts/test"])
def test_help_installs_nothing(checkout, script):
    done = checkout.call(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script} ")
    assert checkout.calls() == []


# ---- the environment


def test_second_call_starts_at_once(checkout, portfolio):
    first = checkout.call("scripts/run", str(portfolio))
    assert "usually 1 to 4 minutes" in first.stderr
    assert checkout.installed() == ["venv", "pip"]
    second = checkout.call("scripts/run", str(portfolio))
    assert second.stderr == ""
    assert checkout.installed() == []


def test_install_is_held_to_the_constraints(checkout):
    checkout.call("scripts/run")
    checkout.call("scripts/test")
    installs = [call.partition(" -c ")[2] for call in checkout.calls() if " pip install " in call]
    assert installs == ["constraints.txt -e .", "constraints.txt -e .[dev]"]


def test_environment_of_the_tests_will_do_for_a_run(checkout):
    checkout.call("scripts/test")
    assert checkout.installed() == ["venv", "pip"]
    checkout.call("scripts/run")
    assert checkout.installed() == []


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(checkout, name):
    checkout.call("scripts/test")
    checkout.calls()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    checkout.call("scripts/run")
    call = next(call for call in checkout.calls() if " pip " in call)
    assert call.endswith("-e .[dev]")  # an update takes nothing away
    checkout.call("scripts/run")
    assert checkout.installed() == []


def test_a_moved_checkout_gets_a_new_environment(checkout):
    """Commands in .venv/bin name their Python by its full path."""
    checkout.call("scripts/run")
    checkout.calls()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.call("scripts/run")
    assert checkout.installed() == ["venv", "pip"]


def test_an_environment_whose_python_is_gone_is_made_anew(checkout):
    checkout.call("scripts/run")
    checkout.calls()
    (checkout.root / ".venv" / "bin" / "python").unlink()
    assert checkout.call("scripts/run").returncode == 0
    assert checkout.installed() == ["venv", "pip"]


def test_an_interrupted_install_is_noticed_and_done_again(checkout, tmp_path):
    hanging = tmp_path / "hanging"
    process = subprocess.Popen(
        [str(checkout.root / "scripts/run")],
        env=checkout.environment(STAND_IN_HANG=str(hanging)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not hanging.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the script and what it started
    process.wait()
    assert (checkout.root / ".venv" / "bin" / "python").exists()
    checkout.calls()
    assert checkout.call("scripts/run").returncode == 0
    assert checkout.installed() == ["venv", "pip"]
    assert not (checkout.root / ".venv.installing").exists()


def test_two_first_calls_install_once(checkout):
    calls = [
        subprocess.Popen(
            [str(checkout.root / "scripts/run")],
            env=checkout.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [call.wait() for call in calls] == [0, 0]
    assert checkout.installed() == ["venv", "pip"]


def test_a_failed_install_shows_the_end_of_its_log(checkout):
    done = checkout.call("scripts/run", STAND_IN_PIP_FAILS="yes")
    assert done.returncode == 1
    assert "no matching distribution" in done.stderr
    assert "run: the installation failed" in done.stderr.splitlines()[-1]
    assert not (checkout.root / ".venv.installing").exists()
    checkout.calls()
    assert checkout.call("scripts/run").returncode == 0
    assert checkout.installed() == ["venv", "pip"]


@pytest.mark.parametrize(
    ("verdict", "found"), [("3.14.2", "is 3.14.2"), ("3.10.13", "is 3.10.13"), ("", "does not run")]
)
def test_a_python_without_wheels_is_one_line(checkout, verdict, found):
    if verdict:
        done = checkout.call("scripts/run", STAND_IN_VERDICT=verdict)
        python = checkout.python
    else:
        python = checkout.root / "no_such_python"
        done = checkout.call("scripts/run", PYTHON=str(python))
    assert done.returncode == 1
    locked = re.search(r"^tensorflow==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert done.stderr == (
        f"run: TensorFlow {locked} has wheels for Python 3.11, 3.12 and 3.13 only; {python} {found}. "
        "Install one of them, or name it: PYTHON=/path/to/python3.12 scripts/run\n"
    )


def test_a_python_without_venv_is_one_line(checkout):
    done = checkout.call("scripts/run", STAND_IN_VERDICT="without venv")
    assert done.stderr == (
        f"run: {checkout.python} has no venv module (on Debian and Ubuntu: apt-get install python3-venv)\n"
    )


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ("pass", "ok"),
        ("sys.version_info = (3, 14, 2, 'final', 0)", "3.14.2"),
        ("sys.version_info = (3, 10, 13, 'final', 0)", "3.10.13"),
        ("import importlib.util; importlib.util.find_spec = lambda name: None", "without venv"),
    ],
)
def test_a_python_is_judged_by_what_it_says(tmp_path, bash, change, verdict):
    """The real interpreter, made to pretend."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\nexec "{sys.executable}" -c "import sys; {change}; exec(sys.stdin.read())"\n'
    )
    python.chmod(0o755)
    code = f'ROOT=/nowhere; source "{ROOT}/scripts/environment.sh"; judge_python "{python}"'
    done = subprocess.run([bash, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == verdict


# ---- scripts/test and CI


def test_test_runs_lint_types_and_the_suite(checkout):
    assert checkout.call("scripts/test").returncode == 0
    calls = checkout.calls()[2:]
    assert calls[:3] == ["ruff check .", "ruff format --check .", "python -m mypy"]
    assert calls[3].startswith("python -m pytest ")
    assert "--long" not in calls[3]
    assert len(calls) == 4


def test_long_runs_all_of_it(checkout):
    assert checkout.call("scripts/test", "--long").returncode == 0
    calls = checkout.calls()
    assert calls[2:5] == ["ruff check .", "ruff format --check .", "python -m mypy"]
    assert "--long" in calls[5].split()


def test_arguments_of_test_go_to_pytest_alone(checkout):
    checkout.call("scripts/test", "tests/test_docs.py", "-k", "one word")
    assert checkout.calls()[2:] == ["python -m pytest tests/test_docs.py -k one word"]


def test_ci_is_the_test_script(checkout):
    assert checkout.call(".ci/run", cwd=Path("/")).returncode == 0
    by_ci = checkout.calls()
    checkout.call("scripts/test")
    assert checkout.calls() == by_ci[2:]


# ---- what is installed


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parts = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): number for name, number in parts}


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_every_requirement_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_that_comes_along_is_pinned_and_nothing_else():
    needed: set[str] = set()
    queue = [requirement.name for requirement in wanted()]
    while queue:
        name = canonicalize_name(queue.pop())
        if name not in needed:
            needed.add(name)
            inner = [Requirement(text) for text in requires(name) or []]
            queue += [r.name for r in inner if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert set(pins()) == needed


def test_what_is_tested_is_what_is_pinned():
    different = {}
    for name, number in pins().items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if found != number and name != "setuptools":  # brought by the Python, used by nothing at run time
            different[name] = (number, found)
    assert different == {}
