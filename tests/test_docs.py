"""README and docs tell the truth: their commands and Python run, and every command is named."""

from __future__ import annotations

import contextlib
import importlib
import io
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

import classify

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
COMMANDS = ("featurize", "classify")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT[page], re.MULTILINE | re.DOTALL)


def shown_with_output(page: str) -> list[str]:
    """Return the commands of the console blocks, in order."""
    return [
        line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")
    ]


def shown_alone(page: str) -> list[str]:
    """Return the commands of the shell blocks, without their comments."""
    return [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]


EVERY_COMMAND = [
    (page, line)
    for page in PAGES
    for line in [*shown_with_output(page), *shown_alone(page)]
    if line.startswith(COMMANDS)
]


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
    shutil.copytree(small_sample, folder / "portfolio")
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


def run_block(block: str, folder: Path) -> dict:
    """Return the names that a block of Python leaves."""
    names: dict = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block, "documentation", "exec"), names)
    return names


@pytest.mark.slow
def test_what_the_pages_show_runs_in_order(workplace, long):
    """README first, then the pages of docs. In this process; with --long, each command in its own."""
    run = run_in_a_process if long else run_here
    ran, names = 0, {}
    for page in PAGES:
        for line in shown_with_output(page):
            words = shlex.split(line)
            if words[0] not in COMMANDS:
                assert (ROOT / words[1]).is_file(), line  # python scripts/…: the fixture has done it
                continue
            run(words, workplace)
            ran += 1
        names[page] = [run_block(block, workplace) for block in blocks(page, "python")]
    assert ran >= 5
    (store,) = names["docs/store-format.md"]
    assert len(store["content"]) == len(store["label"]) == len(store["path"])
    assert store["classes"] == ["award", "low", "middle"]
    (grader,) = names["docs/export.md"]
    with contextlib.chdir(workplace):
        (known,) = classify.predict("artifacts/runs/sample", "artifacts/sample/new/page_001.jpg").grades
    np.testing.assert_allclose(grader["probabilities"], [known.probabilities], rtol=0, atol=1e-4)
    assert grader["grade"] == known.grade
    for page in ("README.md", "docs/python.md"):
        (found,) = names[page]
        assert {row.grade for row in found["predictions"].grades} <= {"award", "low", "middle"}


@pytest.mark.parametrize(("page", "line"), EVERY_COMMAND)
def test_commands_are_understood(page, line):
    parse(shlex.split(line))


def test_a_made_up_option_is_noticed():
    with pytest.raises(click.NoSuchOption):
        parse(["featurize", "extract", "DATA", "--no-such-option"])


@pytest.mark.parametrize("line", [line for line in shown_alone("README.md") if line.startswith("scripts/")])
def test_readme_scripts_are_there_and_executable(line):
    script = ROOT / shlex.split(line)[0]
    assert os.access(script, os.X_OK)


def test_scripts_that_the_pages_name_are_there():
    for page, text in TEXT.items():
        for name in re.findall(r"\bscripts/[\w./]+", text):
            assert (ROOT / name.rstrip(".")).exists(), f"{page}: {name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command):
    assert [name for name in group(command).commands if f"`{command} {name}" not in TEXT["README.md"]] == []


def test_the_readme_is_short():
    assert len(TEXT["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_every_page_is_reached_from_the_readme(page):
    assert f"]({page})" in TEXT["README.md"]


def linked() -> Iterator[tuple[str, str]]:
    for page in (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "artifacts/README.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(linked()))
def test_links_lead_somewhere(page, target):
    assert ((ROOT / page).parent / target).exists()


def test_pictures_are_small():
    for page, text in TEXT.items():
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert ((ROOT / page).parent / target).stat().st_size < 300_000


def test_the_map_shows_every_package_and_nothing_else():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE))
    there = {
        f"{package}/{path.name}"
        for package in COMMANDS
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("_") and path.name != "errors.py"
    }
    assert named == there
