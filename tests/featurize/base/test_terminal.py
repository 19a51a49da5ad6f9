"""Terminal functions of both command lines."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from featurize.base.terminal import CommaList, FolioGroup
from featurize.base.text import flatten, human_bytes, printable
from featurize.errors import FolioError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 字.jpg", "plain é 字.jpg"),
        ("bad\udcff.jpg", "bad\\xff.jpg"),
        ("作品\u3000一 3.00\u202fPM क\u200dष", "作品\u3000一 3.00\u202fPM क\u200dष"),
        ("a\u202egpj.exe\u2028b", "a\\u202egpj.exe\\u2028b"),
        ("two\nlines\t\x1b[31m", "two\\nlines\\t\\x1b[31m"),
    ],
)
def test_printable_text_is_safe_in_a_terminal(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB")]
)
def test_human_bytes(count, shown):
    assert human_bytes(count) == shown


def test_repeated_lists_are_merged_without_duplicates():
    @click.command()
    @click.option("--name", multiple=True, type=CommaList())
    def command(name):
        click.echo("|".join(flatten(name)))

    result = CliRunner().invoke(command, ["--name", "a,b", "--name", " c , a,"])
    assert result.output == "a|b|c\n"


def test_only_library_errors_are_printed_as_one_line():
    @click.group(cls=FolioGroup)
    def group():
        pass

    @group.command()
    @click.argument("kind")
    def fail(kind):
        raise FolioError("x.h5: no\nsuch store") if kind == "ours" else ZeroDivisionError

    ours = CliRunner().invoke(group, ["fail", "ours"])
    assert ours.exit_code == 1
    assert ours.stderr == "group: x.h5: no\\nsuch store\n"
    assert isinstance(CliRunner().invoke(group, ["fail", "bug"]).exception, ZeroDivisionError)


@pytest.mark.parametrize("verbose", [False, True])
def test_library_output_is_hidden_and_our_own_lines_are_shown(verbose):
    code = (
        "import os, sys, warnings\nfrom featurize.base.terminal import silence_libraries\n"
        f"silence_libraries(verbose={verbose})\n"
        "os.write(2, b'native message\\n')\nwarnings.warn('python message')\nprint('ours', file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "ours" in result.stderr
    assert ("native message" in result.stderr) == verbose
    assert ("python message" in result.stderr) == verbose
