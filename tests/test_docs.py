"""The README tells the truth: its commands run, and it names every command there is."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from classify.deploy.predict import predict

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("featurize", "classify")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shown_with_output() -> list[str]:
    """Return the commands of the console blocks, in order."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def shown_alone() -> list[str]:
    """Return the commands of the shell blocks, without their comments."""
    return [line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]


def group(command: str) -> click.Group:
    module = importlib.import_module(f"{command}.cli.main")
    return next(value for value in vars(module).values() if isinstance(value, click.Group))


def parse(words: list[str]) -> None:
    """Let click read a command without running it: unknown commands and options are errors."""
    commands = group(words[0])
    command = commands.get_command(click.Context(commands), words[1])
    assert command is not None, f"there is no {words[0]} {words[1]}"
    command.make_context(words[1], words[2:])


@pytest.fixture(scope="module")
def workplace(small_sample, tmp_path_factory) -> Path:
    """A folder with a small sample portfolio where the README has the full one."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "artifacts").mkdir()
    shutil.copytree(small_sample, folder / "artifacts" / "sample")
    return folder


def run_in_a_process(words: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from {words[0]}.cli.main import main; main()", *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def run_here(words: list[str], folder: Path) -> None:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(group(words[0]), words[1:], prog_name=words[0], catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"


@pytest.mark.slow
def test_readme_commands_run_in_order(workplace, long):
    """In this process, which has the libraries; with --long, each in its own."""
    run = run_in_a_process if long else run_here
    ran = 0
    for line in shown_with_output():
        words = shlex.split(line)
        if words[0] not in COMMANDS:
            assert (ROOT / words[1]).is_file(), line  # python scripts/…: the fixture has done it
            continue
        run(words, workplace)
        ran += 1
    assert ran >= 8
    store, grader = (run_block(block, workplace) for block in blocks("python"))
    assert len(store["content"]) == len(store["label"]) == len(store["path"])
    assert store["classes"] == ["award", "low", "middle"]
    with contextlib.chdir(workplace):
        (known,) = predict("artifacts/runs/sample", ["artifacts/sample/new/page_001.jpg"]).grades
    np.testing.assert_allclose(grader["probabilities"], [known.probabilities], rtol=0, atol=1e-4)
    assert grader["grade"] == known.grade


def run_block(block: str, folder: Path) -> dict:
    """Return the names that a block of Python leaves."""
    names: dict = {}
    with contextlib.chdir(folder):
        exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize(
    "line", [line for line in [*shown_with_output(), *shown_alone()] if line.startswith(COMMANDS)]
)
def test_readme_commands_are_understood(line):
    parse(shlex.split(line))


def test_a_made_up_option_is_noticed():
    with pytest.raises(click.NoSuchOption):
        parse(["featurize", "extract", "DATA", "--no-such-option"])


@pytest.mark.parametrize("line", [line for line in shown_alone() if line.startswith("scripts/")])
def test_readme_scripts_are_there_and_executable(line):
    script = ROOT / shlex.split(line)[0]
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command):
    assert [name for name in group(command).commands if f"`{command} {name}" not in README] == []


def linked() -> Iterator[tuple[str, str]]:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "artifacts/README.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(linked()))
def test_links_lead_somewhere(page, target):
    assert ((ROOT / page).parent / target).exists()


def test_pictures_are_small():
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).stat().st_size < 300_000


def test_the_map_shows_rooms_that_exist():
    """Every file that CONTRIBUTING names in a package is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package, missing = "", []
    for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        for name in re.findall(r"`(\s*)([\w./]+)`", cell):
            if not name[0] and not cell.startswith("`  "):
                package = name[1]
            path = ROOT / name[1] if name[1] == package else ROOT / package / name[1]
            if not path.exists():
                missing.append(str(path.relative_to(ROOT)))
    assert missing == []
