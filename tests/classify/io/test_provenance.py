"""How a run was made: lines that a shell and our own command line read as what was given."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from classify.cli.main import cli
from classify.errors import CompareError
from classify.io.provenance import compare_words, run_provenance, shell_line
from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions
from featurize.base.text import flatten

BASH = shutil.which("bash")
HOSTILE = (
    "a b.h5",
    "it's.h5",
    "$(x)`y`.h5",
    "<img src=x onerror=alert(1)>.h5",
    "n\nl\t.h5",
    "b\\n.h5",
    "é\u202e.h5",
)


def as_bash_reads(line: str) -> list[str]:
    """The words of a line, by the shell itself."""
    assert BASH is not None
    done = subprocess.run([BASH, "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def parsed(words: list[str]) -> dict:
    """What the command line makes of the words of a command, repeated lists joined."""
    assert words[:2] == ["classify", "compare"]
    params = cli.commands["compare"].make_context("compare", words[2:]).params
    return {**params, **{name: flatten(params[name]) for name in ("heads", "study")}}


needs_bash = pytest.mark.skipif(BASH is None, reason="needs bash, which reads the line")


@needs_bash
@given(
    st.lists(
        st.binary(max_size=12).filter(lambda name: b"\0" not in name)
        | st.text(max_size=8).map(lambda name: name.replace("\0", "").encode("utf-8", "replace")),
        min_size=1,
        max_size=4,
    )
)
def test_a_shell_parses_quoted_words_back(names):
    words = [os.fsdecode(name) for name in names]
    line = shell_line(words)
    assert as_bash_reads(line) == words
    assert line.isprintable() or all(character not in line for character in "\n\r\x1b")
    line.encode("utf-8")


def test_plain_words_stay_readable():
    words = ["featurize", "extract", "my data", "--rotation", "10.0"]
    assert shell_line(words) == shlex.join(words)


@needs_bash
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--heads", "logreg,svm-linear", "--heads", "dense", "--study", "learning", "--seed", "3", "--fuse"],
        ["--order", "low,Mitte,<b>", "--class-weight", "balanced", "--join", "features", "--jobs", "2"],
        [
            "--units",
            "8,4",
            "--dropout",
            "0.1",
            "--learning-rate",
            "3e-5",
            "--epochs",
            "7",
            "--batch-size",
            "5",
        ],
        ["--patience", "2", "--device", "gpu:0,gpu:2", "--gpu-memory", "0.25", "--fresh", "--overwrite"],
        ["--out", "-odd name's", "--calibrate", "temperature", "--heads", "all"],
    ],
    ids=lambda words: words[0] if words else "none",
)
@pytest.mark.parametrize(
    "stores", [["a/vgg16.h5", "a/vgg16+random.h5"], ["-x.h5", *HOSTILE, os.fsdecode(b"\xff.h5")]]
)
def test_the_command_is_parsed_into_equal_options(monkeypatch, stores, options):
    """The real command line is called as a user would, and called again with the line that it left."""
    asked = {}

    def stopped(paths, **options):
        asked.update(stores=paths, **options)
        raise CompareError("here")

    monkeypatch.setattr("classify.cli.compare.compare", stopped)
    monkeypatch.setattr("classify.io.provenance._extract_words", lambda path: [])
    words = ["classify", "compare", *options, "--", *stores]
    with pytest.raises(CompareError, match="here"):
        cli.commands["compare"].main(words[2:], standalone_mode=False)
    line = run_provenance(compare, asked, stores=asked["stores"], seconds=1.0)["command"]
    assert parsed(as_bash_reads(line)) == parsed(words)


def test_a_record_has_the_commands_of_the_run(make_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_store(counts={"train": 8, "test": 4}).relative_to(tmp_path)
    dense = DenseOptions(epochs=9)
    done = compare(
        [path, str(path)], heads=["logreg"], out="a run", jobs=1, dense=dense, order=("low", "award")
    )
    made = done.record["made"]
    assert made["command"] == (
        "classify compare features/efficientnet_lite0.h5 --heads logreg --out 'a run' --order low,award "
        "--jobs 1 --epochs 9"
    )
    assert made["extract"] == [
        "featurize extract DATA --out features --backbone efficientnet_lite0 --precision float32 --views 2"
    ]
    assert (made["options"]["heads"], made["options"]["epochs"], made["options"]["seed"]) == (
        ["logreg"],
        9,
        0,
    )
    assert 0 < made["seconds"] < 600


def test_default_options_are_not_in_the_command():
    assert compare_words([Path("a.h5")], {"heads": None, "study": [], "fuse": True, "report": False}) == [
        *("classify", "compare", "a.h5", "--fuse", "--no-report")
    ]
