"""`classify report`: what is typed reaches the library, and what it says is printed."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.errors import CompareError
from classify.jobs.compare import compare
from classify.report.report import Report


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("classify.cli.main.silence_libraries", lambda *, verbose: None)
    return lambda *words: CliRunner().invoke(cli, ["report", *map(str, words)])


@pytest.fixture
def asked(monkeypatch):
    """What the library is asked for in place of making a report."""
    calls = []

    def make_report(run, **options):
        options.pop("on_progress")
        calls.append((run, options))
        notes = ("1 image is not shown\nat all",)
        figures = None if options["figures"] == "none" else run / "figures"
        return Report(path=run / "report.html", table=run / "leaderboard.md", figures=figures, notes=notes)

    monkeypatch.setattr("classify.cli.compare.make_report", make_report)
    return calls


def test_report_writes_the_report_of_a_run(call, make_store, tmp_path):
    compare([make_store()], heads=("nearest-mean",), out=tmp_path / "run", jobs=1, report=False)
    done = call("run")
    assert done.exit_code == 0
    assert done.stdout == "Report: run/report.html\nTable: run/leaderboard.md\nFigures: run/figures\n"
    assert done.stderr.splitlines()[-1].startswith(
        "Note: 60 images are shown with the store's thumbnail of 32 pixels"
    )
    for name in ("run/report.html", "run/leaderboard.md", "run/figures/leaderboard.svg"):
        assert (tmp_path / name).is_file()


def test_options_reach_the_library(call, asked):
    done = call(
        "a", "--store", "b.h5", "--store", "c.h5", "--data", "d", "--no-pictures", "--figures", "none"
    )
    assert done.exit_code == 0
    assert done.stdout == "Report: a/report.html\nTable: a/leaderboard.md\n"
    assert done.stderr == "Note: 1 image is not shown\\nat all\n"
    call("a")
    assert asked == [
        (
            Path("a"),
            {"stores": (Path("b.h5"), Path("c.h5")), "data": Path("d"), "pictures": False, "figures": "none"},
        ),
        (Path("a"), {"stores": (), "data": None, "pictures": True, "figures": "svg"}),
    ]


def test_the_page_is_opened_with_open(call, asked, monkeypatch):
    opened = []
    monkeypatch.setattr("click.launch", opened.append)
    call("a")
    assert opened == []
    call("a", "--open")
    assert opened == ["a/report.html"]


def test_an_error_is_one_line(call, tmp_path, monkeypatch):
    done = call("gone")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.strip().endswith("gone: has no results.json. Make a run with: classify compare STORE")
    assert len(done.stderr.strip().splitlines()) == 1
    assert call("gone", "--figures", "pdf").exit_code == 2

    def broken(*args, **options):
        raise CompareError("a\nb")

    monkeypatch.setattr("classify.cli.compare.make_report", broken)
    assert len(call("gone").stderr.strip().splitlines()) == 1
