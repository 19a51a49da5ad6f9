"""The command as a user types it: what is printed, and how it ends."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from featurize.cli import cli


@pytest.fixture
def run(stand_in, tmp_path):
    def invoke(*arguments, exit_code=0):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.fixture
def extract(run, portfolio, tmp_path):
    def invoke(*arguments, exit_code=0, data=portfolio):
        fixed = ("--backbone", "mean", "--weights", "random", "--out", tmp_path / "out")
        return run("extract", data, *fixed, *arguments, exit_code=exit_code)

    return invoke


def test_the_summary_says_what_was_made(extract):
    out = extract("--views", "2").stdout
    assert "task: 21 images" in out
    assert "classes in label order: 0 award, 1 low, 2 middle" in out
    assert "train: 15 (award 5, low 5, middle 5)" in out
    assert "test: 6 (award 2, low 2, middle 2)" in out
    assert "mean (RANDOM weights): made, 21 pictures × 3 features, 2 views" in out
    assert "21 files decoded, 51 views computed on cpu" in out
    for stage in ("s decoding", "s in the network", "s writing", "KiB"):
        assert stage in out
    assert "add: --order low,middle,award" in out
    assert "mean+random.h5" in out


def test_the_second_run_says_that_nothing_was_decoded(extract):
    extract()
    assert "up to date, nothing decoded, nothing computed" in extract().stdout


def test_skipped_files_are_listed_with_their_reasons(extract, portfolio):
    (portfolio / "train" / "low_train" / "bad name.jpg").write_text("no")
    out = extract().stdout
    assert "1 files skipped:" in out
    assert "train/low_train/bad name.jpg: not an image" in out


def test_two_classes_name_the_positive_one(extract, portfolio):
    for split in ("train", "test"):
        for path in (portfolio / split / f"middle_{split}").iterdir():
            path.unlink()
        (portfolio / split / f"middle_{split}").rmdir()
    assert "positive class: low" in extract().stdout


def test_order_is_shown(extract):
    assert "0 low < 1 middle < 2 award" in extract("--order", "low,middle,award").stdout


def test_lists_take_commas_and_repeats(run, portfolio, tmp_path):
    common = ("extract", portfolio, "--weights", "random", "--json")
    one = run(*common, "--out", tmp_path / "a", "--backbone", "mean,mean_too").stdout
    two = run(*common, "--out", tmp_path / "b", "--backbone", "mean", "--backbone", "mean_too").stdout
    for text in (one, two):
        assert [store["backbone"] for store in json.loads(text)["stores"]] == ["mean", "mean_too"]


def test_every_range_is_an_option(extract):
    numbers = {
        "rotation": 10,
        "width_shift": 0.1,
        "height_shift": 0.3,
        "shear": 5,
        "zoom_low": 0.9,
        "zoom_high": 1.1,
    }
    options = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", value)]
    out = extract(*options, "--no-horizontal-flip", "--vertical-flip", "--json").stdout
    views = json.loads(out)["stores"][0]["config"]["views"]
    assert views == {**numbers, "horizontal_flip": False, "vertical_flip": True, "seed": 0}


def test_a_library_error_is_one_line_and_exit_code_1(extract, tmp_path):
    result = extract("--views", "-1", exit_code=1)
    assert result.stderr.splitlines() == ["featurize: --views -1: expected 0 or more"]
    missing = extract(data=tmp_path / "nowhere", exit_code=1)
    assert len(missing.stderr.splitlines()) == 1
    assert "nowhere" in missing.stderr


def test_a_wrong_option_is_exit_code_2(extract):
    assert "--batch-size" in extract("--batch-size", "many", exit_code=2).stderr
    extract("--resize", "stretch", exit_code=2)


def test_info_prints_what_is_in_the_store(extract, run, tmp_path):
    extract("--views", "2")
    out = run("info", tmp_path / "out" / "mean+random.h5").stdout
    for text in ("award, low, middle", "random", "task"):
        assert text in out
    facts = json.loads(run("info", tmp_path / "out" / "mean+random.h5", "--json").stdout)
    assert facts["contents"] == 21
    assert facts["splits"]["test"] == {"award": 2, "low": 2, "middle": 2}


def test_backbones_are_listed_with_what_they_cost(run):
    out = run("backbones").stdout
    line = next(line for line in out.splitlines() if line.startswith("efficientnet_lite0"))
    assert line.split()[1:3] == ["224", "1280"]
    assert line.split()[-1] == "yes"
    for row in json.loads(run("backbones", "--json").stdout):
        assert row["weights_available"] or row["hint"]


def test_help_needs_neither_tensorflow_nor_scikit_learn():
    code = (
        "import sys\nfrom featurize.cli import cli\n"
        "try:\n    cli(['extract', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'h5py', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
