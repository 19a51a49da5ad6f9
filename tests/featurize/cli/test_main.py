"""The command line: options, printed text, exit codes, signals."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import h5py
import pytest
from click.testing import CliRunner

from featurize.cli.main import cli
from featurize.engines import selfcheck
from featurize.images.skip_reasons import SkippedFile, write_skipped


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


def test_the_summary_of_a_run(extract):
    out = extract("--views", "2").stdout
    assert "task: 21 images" in out
    assert "classes in label order: 0 award, 1 low, 2 middle" in out
    assert "train: 15 (award 5, low 5, middle 5)" in out
    assert "test: 6 (award 2, low 2, middle 2)" in out
    assert "mean (RANDOM weights): created, 21 distinct images × 3 features, 2 views" in out
    assert "21 files decoded, 51 views computed on cpu" in out
    for stage in ("s in total", "s network", "s decoding", "s writing", "KiB"):
        assert stage in out
    assert "add: --order low,middle,award" in out
    assert "mean+random.h5" in out


def test_the_summary_tells_how_the_precision_was_chosen(extract, stand_in, tmp_path):
    assert "  computed in float32: this hardware has no faster format" in extract().stdout
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": 0.05}
    out = extract("--out", tmp_path / "taken").stdout
    (line,) = [line for line in out.splitlines() if "computed in bfloat16, " in line]
    assert line.endswith(
        "times as fast in the network; smallest cosine similarity with float32 0.999950 on 21 images"
    )
    assert "computed in" not in extract("--out", tmp_path / "taken").stdout  # up to date
    stand_in.errors = {"bfloat16": 1.0}
    out = extract("--out", tmp_path / "not").stdout
    (line,) = [line for line in out.splitlines() if "computed in float32: " in line]
    assert line.startswith("  computed in float32: --precision bfloat16 would be ")
    assert "smallest cosine similarity with float32 0.984732 on 21 images; auto requires 0.999" in line
    assert "computed in" not in extract("--out", tmp_path / "forced", "--precision", "float32").stdout
    facts = json.loads(extract("--out", tmp_path / "json", "--json").stdout)["stores"][0]
    assert (facts["precision"]["tried"], facts["precision"]["images"]) == ("bfloat16", 21)
    assert (facts["engine"], facts["config"]["precision"]) == ("stand-in", "float32")


def test_a_dry_run_announces_the_choice_of_precision(extract, tmp_path):
    choosing = "first, the precision is chosen on at most 32 images"
    assert choosing in extract("--dry-run").stdout
    assert choosing not in extract("--dry-run", "--precision", "float32").stdout
    extract()
    assert choosing not in extract("--dry-run", "--views", "9").stdout


def test_levels_and_engine_are_options_and_shown_by_info(extract, run, stand_in, tmp_path):
    stand_in.fast = ("bfloat16",)
    out = extract("--levels", "--engine", "openvino", "--views", "1").stdout
    assert "21 distinct images × 6 features, 1 view" in out
    assert "  levels: 1/2 3, final 3" in out
    store = tmp_path / "out" / "mean+random+levels.h5"
    facts = json.loads(run("info", store, "--json").stdout)
    assert facts["levels"] == {"1/2": 3, "final": 6}
    assert facts["engine"] == "stand-in"
    proof = facts["precision"]
    assert (proof["format"], proof["asked"], proof["tried"]) == ("bfloat16", "auto", "bfloat16")
    assert (proof["cosine"], proof["images"]) == (pytest.approx(1), 21)
    shown = run("info", store).stdout
    assert re.search(r'^precision +\{"format": "bfloat16", .*"cosine": (1\.0|0\.9999)', shown, re.MULTILINE)
    assert re.search(r"^engine +stand-in$", shown, re.MULTILINE)
    dry = extract("--levels", "--views", "1", "--dry-run").stdout
    assert "mean: up to date, nothing to do" in dry
    assert str(store) in dry
    assert "invalid" in extract("--engine", "torch", exit_code=2).stderr.lower()


def test_a_second_run_decodes_nothing(extract):
    extract()
    assert "up to date, nothing decoded, nothing computed" in extract().stdout


def test_a_file_that_fails_again_is_counted(extract, time_out):
    time_out("low_train/3.png")
    extract()
    assert "up to date, 1 file tried again, nothing computed (20 distinct images" in extract().stdout


def test_markup_in_the_name_of_a_data_set_is_printed_literally(extract, portfolio):
    odd = portfolio.rename(portfolio.with_name("[red]task[x] [bold]"))
    assert "[red]task[x] [bold]: 21 images" in extract(data=odd).stdout


def test_selfcheck_output(run, monkeypatch):
    result = selfcheck.SelfCheck(
        backbone="mean", engine="tensorflow", device="gpu:1", precision="bfloat16", n_images=8,
        formats=("float16", "bfloat16"), smallest_cosine=0.99987, images_per_second=1234.56,
        reference_images_per_second=7.8, note="",
    )  # fmt: skip
    monkeypatch.setattr(selfcheck, "selfcheck", lambda *_, **__: result)
    assert run("selfcheck", "--backbone", "mean", "--weights", "random").stdout.splitlines() == [
        "mean with tensorflow on gpu:1 in bfloat16: smallest cosine similarity with TensorFlow on the CPU "
        "0.999870 over 8 images (1 means equal)",
        "1234.6 images/s; TensorFlow on the CPU in float32 7.8 images/s",
        "formats that are fast on gpu:1: float32, float16, bfloat16",
    ]


def test_skipped_files_are_listed_with_their_reasons(extract, portfolio):
    (portfolio / "train" / "low_train" / "bad name.jpg").write_text("no")
    out = extract().stdout
    assert "1 file skipped: 1 not an image" in out
    assert "train/low_train/bad name.jpg: not an image" in out


def test_skipped_files_are_counted_by_kind_and_listed_for_a_spreadsheet(extract, portfolio, tmp_path):
    folder = portfolio / "train" / "low_train"
    (folder / "=cmd|' !A0.jpg").write_text("no")
    (folder / "two\nlines.jpg").write_text("no")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (portfolio / "new").mkdir()
    (portfolio / "new" / os.fsdecode(b"caf\xe9.jpg")).touch()
    table = tmp_path / "skipped.csv"
    out = extract("--skipped", table).stdout
    assert "4 files skipped: 2 not an image, 1 " in out
    assert table.read_bytes().startswith(b"\xef\xbb\xbf")
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [tuple(row.values()) for row in rows] == [
        ("new/caf\\xe9.jpg", "new", "", "empty file", ""),
        ("train/low_train/0.png", "train", "low", "truncated", ""),
        ("train/low_train/=cmd|' !A0.jpg", "train", "low", "not an image", ""),
        ("train/low_train/two\\nlines.jpg", "train", "low", "not an image", ""),
    ]
    listed = json.loads(extract("--json").stdout)["stores"][0]["skipped"]
    assert listed[1] == {
        "path": "train/low_train/0.png", "split": "train", "class": "low", "kind": "truncated",
        "reason": "truncated",
    }  # fmt: skip
    missing = extract("--skipped", tmp_path / "no" / "folder.csv", exit_code=1)
    assert len(missing.stderr.splitlines()) == 1
    assert "--skipped" in missing.stderr


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " ="])
def test_no_cell_is_a_formula(tmp_path, start):
    name = f"{start}HYPERLINK(0)"
    write_skipped(
        tmp_path / "x.csv",
        [SkippedFile(path=name, split="train", class_name=name, reason=f"damaged: {name}")],
    )
    with (tmp_path / "x.csv").open(encoding="utf-8-sig", newline="") as stream:
        path, split, class_name, kind, detail = list(csv.reader(stream))[1]
    assert (split, kind) == ("train", "damaged")
    for cell in (path, class_name):
        assert cell.startswith("'")
        assert cell.endswith("HYPERLINK(0)")
    assert not detail.startswith(("=", "+", "-", "@", "\t", "\r"))


def everything_below(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def test_a_dry_run_prints_the_work_and_writes_nothing(extract, portfolio, tmp_path, stand_in):
    before = everything_below(tmp_path)
    out = extract("--views", "2", "--dry-run").stdout
    assert "mean: new, 21 distinct images to decode, 51 views to compute" in out
    assert "nothing was written" in out
    assert everything_below(tmp_path) == before  # no folder, no lock
    assert stand_in.n_seen == 0
    extract("--views", "2")
    (portfolio / "train/award_train/0.png").rename(portfolio / "train/low_train/was_award.png")
    (portfolio / "train/low_train/4.png").unlink()
    (portfolio / "test/low_test/0.png").rename(portfolio / "test/low_test/00.png")
    (portfolio / "test/low_test/1.png").write_bytes((portfolio / "train/award_train/1.png").read_bytes())
    (portfolio / "train/low_train/bad.png").write_text("no picture yet")
    before, stand_in.built[:] = everything_below(tmp_path), []
    out = extract("--views", "3", "--dry-run").stdout
    # 14 training images lack their third view; only bad.png is new to the store.
    assert "mean: changes, 15 distinct images to decode, 18 views to compute" in out
    assert "files: added 1, removed 1, changed 1, moved 1, relabelled 1" in out
    assert "1 of 21 files are copies of other files" in out
    facts = json.loads(extract("--views", "3", "--dry-run", "--json").stdout)["stores"][0]
    assert facts["changes"]["relabelled"][0]["old_path"] == "train/award_train/0.png"
    assert facts["changes"]["relabelled"][0]["place"] == ["train", "low"]
    assert facts["changes"]["changed"] == ["test/low_test/1.png"]
    assert everything_below(tmp_path) == before
    assert stand_in.n_seen == 0
    extract("--views", "3")
    assert stand_in.n_seen == 14  # as announced, except for the file that is not an image
    assert "mean: up to date, nothing to do" in extract("--views", "3", "--dry-run").stdout
    assert "--skipped" in extract("--dry-run", "--skipped", "x.csv", exit_code=2).stderr


def test_a_dry_run_downloads_no_weights(run, portfolio, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FOLIO_WEIGHTS_MIRROR", "http://127.0.0.1:9/nothing")
    out = run("extract", portfolio, "--backbone", "vgg16", "--out", tmp_path / "out", "--dry-run").stdout
    assert "vgg16: new, 21 distinct images to decode, 81 views to compute" in out
    assert "weights: downloaded on first use (" in out
    assert not (tmp_path / "keras").exists()
    assert not (tmp_path / "out").exists()


def test_verify_ends_with_the_repair_command(extract, run, portfolio, tmp_path):
    extract("--views", "2")
    store = tmp_path / "out" / "mean+random.h5"
    out = run("verify", store).stdout
    assert (
        f"{store}: 21 distinct images in 21 files; checked structure, checksums, files in {portfolio}" in out
    )
    assert "recomputed features of 8 images (18 views; largest difference 0 of the largest feature" in out
    assert out.splitlines()[-1] == "no faults found"
    with h5py.File(store, "r+") as file:
        row = list(file["images/path"]).index(b"train/award_train/0.png")
        file["features/plain"][file["images/content"][row]] += 1
    (portfolio / "test/low_test/0.png").unlink()
    result = run("verify", store, "--sample", "0", exit_code=1)
    lines = result.stdout.splitlines()
    assert "test/low_test/0.png: removed: in the store, not in the folder" in lines
    assert lines[-1] == f"Repair it with: featurize repair {store} --sample 0"
    seeded = run("verify", store, "--sample", "0", "--seed", "7", exit_code=1).stdout
    assert seeded.splitlines()[-1] == f"Repair it with: featurize repair {store} --sample 0 --seed 7"
    facts = json.loads(run("verify", store, "--sample", "0", "--json", exit_code=1).stdout)
    assert facts["clean"] is False
    assert [fault["reach"] for fault in facts["faults"]] == ["contents", "data"]
    out = run("repair", store, "--sample", "0").stdout
    assert "test/low_test/0.png: removed" in out
    assert "repaired; 1 file decoded, 3 views computed; the store has 20 distinct images" in out
    assert run("verify", store).stdout.splitlines()[-1] == "no faults found"
    assert "nothing changed" in run("repair", store).stdout


def test_verify_lists_the_files_only_if_they_were_compared(extract, run, portfolio, tmp_path):
    extract("--views", "0")
    store = tmp_path / "out" / "mean+random.h5"
    with h5py.File(store, "r+") as file:
        file["images/path"][0] = "train/other.png"  # makes the table of images invalid
    out = run("verify", store, "--sample", "0", exit_code=1).stdout
    assert "checked structure, checksums\n" in out
    assert f"files in {portfolio}" not in out


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


@pytest.mark.parametrize("command", ["extract", "scan"])
def test_the_order_takes_commas_and_repeats(run, portfolio, tmp_path, command):
    fixed = ["--out", tmp_path / "out", "--backbone", "mean", "--weights", "random"]
    rest = fixed if command == "extract" else []
    for order in (["--order", "low,middle,award"], ["--order", "low", "--order", "middle, award"]):
        out = run(command, portfolio, *order, *rest).stdout
        assert re.search(r"low < \S*\s?middle < \S*\s?award", out)


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("extract", "--workers", "0"),
        ("extract", "--image-timeout", "0"),
        ("extract", "--seed", "-1"),
        ("extract", "--max-pixels", "0"),
        ("extract", "--input-size", "0"),
        ("scan", "--workers", "0"),
        ("verify", "--seed", "-1"),
        ("repair", "--seed", "-1"),
        ("repair", "--image-timeout", "-2"),
    ],
)
def test_invalid_numbers_are_usage_errors(run, portfolio, command, option, value):
    error = run(command, portfolio, option, value, exit_code=2).stderr
    assert f"Invalid value for '{option}'" in error


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
        "import sys\nfrom featurize.cli.main import cli\n"
        "try:\n    cli(['extract', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'h5py', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


SERVE = """
import sys
sys.path.insert(0, {folder!r})
import stand_in
from featurize.cli.main import main
stand_in.install(delay=0.3, part=4)
main()
"""


def restore_ctrl_c():
    """Restore the default handler of Ctrl-C, which background jobs of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(portfolio, tmp_path):
    """Start a slow extraction by the command line; return it when the first part is written."""
    code = SERVE.format(folder=str(Path(__file__).parents[1]))
    words = ["extract", str(portfolio), "--backbone", "mean", "--weights", "random", "--workers", "1"]
    words += ["--out", str(tmp_path / "the out")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=restore_ctrl_c,
    )
    while not list((tmp_path / "the out").glob("*.parts/*.part")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return process, words


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_run_prints_the_command_to_continue_and_continues(portfolio, tmp_path, name, stand_in):
    process, words = start(portfolio, tmp_path)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name)
    command = f"featurize {' '.join(words[:-1])} '{tmp_path / 'the out'}'"
    assert stderr.splitlines() == [f"featurize: stopped; finished work is kept. Continue with: {command}"]
    dry = CliRunner().invoke(cli, [*words, "--dry-run"]).stdout
    assert "an unfinished run left " in dry
    out = CliRunner().invoke(cli, words).stdout
    assert " taken from an unfinished run" in out
    assert 0 < stand_in.n_seen <= 81 - 4  # a part of four contents was in place


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_second_ctrl_c_ends_immediately(tmp_path):
    code = (
        "import time\nfrom featurize.base.terminal import graceful_stop\n"
        "with graceful_stop():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('cleanup', flush=True)\n        time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=restore_ctrl_c
    )
    for word in ("ready", "cleanup"):
        assert process.stdout.readline().strip() == word
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT


def test_a_command_without_kept_work_does_not_claim_any():
    @cli.command("wait")
    def wait():
        raise KeyboardInterrupt

    try:
        result = CliRunner().invoke(cli, ["wait"], prog_name="featurize")
    finally:
        cli.commands.pop("wait")
    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["featurize: stopped. Run it again with: featurize wait"]


def test_every_command_has_an_example_and_every_option_help():
    for name, command in cli.commands.items():
        assert f"featurize {name} " in command.help or f"featurize {name}\n" in f"{command.help}\n", name
        assert len(command.get_short_help_str(limit=60)) < 58, name  # not cut in the list of commands
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (command.name, parameter.name)


def test_image_timeout_is_an_option(extract):
    assert "0.0 is not in the range x>0" in extract("--image-timeout", "0", exit_code=2).stderr
    extract("--image-timeout", "30")
