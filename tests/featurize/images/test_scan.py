"""Scan: every fault of dirty_folder.py is found, and a clean folder has no findings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurize.cli.main import cli
from featurize.console import SHOWN_CASES, SHOWN_COPIES
from featurize.errors import ConfigError, DatasetError
from featurize.images import scan as scan_module
from featurize.images.scan import ScanReport, list_findings, scan
from featurize.images.scan_findings import KINDS, LEVELS

ORDER = ("low", "middle", "award")


def _load_dirty_folder():
    """Load the script dirty_folder.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "dirty_folder", Path(__file__).parents[1] / "dirty_folder.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dirty_folder"] = module
    spec.loader.exec_module(module)
    return module


maker = _load_dirty_folder()


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return maker.clean_folder(tmp_path_factory.mktemp("clean") / "portfolio")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory) -> Path:
    return maker.dirty_folder(tmp_path_factory.mktemp("dirty") / "portfolio")


@pytest.fixture(scope="module")
def clean_report(clean) -> ScanReport:
    return scan(clean, order=ORDER)


@pytest.fixture(scope="module")
def dirty_report(dirty) -> ScanReport:
    return scan(dirty)


def run_scan(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, ["scan", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


def kinds(report):
    return [finding.kind for finding in report.findings]


# Findings for the faults that dirty_folder.py creates.
FOUND = {
    "same file under two grades": ("error", [("train/low/0.jpg", "train/middle/also low.jpg")]),
    "near duplicates under two grades": ("error", [("train/award/1.jpg", "train/low/brighter.jpg")]),
    "same file in two splits": ("error", [("test/low/seen in train.jpg", "train/low/2.jpg")]),
    "near duplicates in two splits": ("error", [("test/award/0.jpg", "train/award/shrunk.png")]),
    "class too small": ("error", []),
    "skipped": (
        "warning",
        [
            ("train/low/cut short.jpg", "truncated"),
            ("train/low/text.jpg", "not an image"),
            ("train/middle/empty.png", "empty file"),
        ],
    ),
    "outside": ("warning", [("train/notes.txt",)]),
    "copies in test": ("warning", [("test/middle/1.jpg", "test/middle/" + maker.HOSTILE)]),
    "imbalance": ("warning", []),
    "class missing from test": ("warning", []),
    "copies": ("note", [("train/middle/3 (copy).jpg", "train/middle/3.jpg")]),
    "near duplicates": ("note", [("train/award/4 small.jpg", "train/award/4.jpg")]),
    "ungraded copies": ("note", [("new/unknown.jpg", "train/award/5.jpg")]),
    "rotated": ("note", [("train/award/phone.jpg",), ("train/award/scan.tif",)]),
    "misnamed": ("note", [("train/middle/screenshot.jpg", "PNG")]),
    "colour": ("note", [("train/middle/print.jpg", "CMYK")]),
    "small pictures": ("note", []),
}


def test_a_clean_folder_has_no_finding(clean_report):
    assert clean_report.findings == ()
    assert not clean_report.needs_person
    assert clean_report.files == clean_report.readable == clean_report.entries
    assert clean_report.files == {"train": dict.fromkeys(ORDER, 6), "test": dict.fromkeys(ORDER, 2)}
    assert clean_report.groups == dict.fromkeys(ORDER, 6)
    assert list(clean_report.groups) == list(ORDER)


def test_the_findings_are_exactly_the_faults(dirty_report):
    assert sorted(kinds(dirty_report)) == sorted(FOUND)


@pytest.mark.parametrize("kind", FOUND)
def test_a_fault_is_found(dirty_report, kind):
    (finding,) = [finding for finding in dirty_report.findings if finding.kind == kind]
    level, cases = FOUND[kind]
    assert finding.level == level
    assert list(finding.cases) == cases


def test_errors_come_first(dirty_report):
    levels = [finding.level for finding in dirty_report.findings]
    assert levels == sorted(levels, key=list(LEVELS).index)
    assert kinds(dirty_report)[:2] == ["same file under two grades", "near duplicates under two grades"]
    assert dirty_report.needs_person


def test_facts_of_the_dirty_folder(dirty_report):
    # 24 clean files, 8 copies, 3 that are not images, the only image of its class, 5 unusual images
    assert (dirty_report.n_files, dirty_report.n_readable) == (41, 38)
    assert dirty_report.files["train"] == {"award": 10, "low": 10, "middle": 11, "rare": 1}
    assert dirty_report.readable["train"] == {"award": 10, "low": 8, "middle": 10, "rare": 1}
    assert dirty_report.readable["new"] == {"": 1}
    assert dirty_report.formats == {"JPEG": 35, "PNG": 2, "TIFF": 1}
    assert dirty_report.modes == {"RGB": 37, "CMYK": 1}
    assert dataclasses.astuple(dirty_report.short_side) == (120, 240, 240)
    assert dataclasses.astuple(dirty_report.long_side) == (250, 320, 320)
    assert dirty_report.n_small == 1
    assert dirty_report.ignored == 1
    # award: 0 to 5, phone and scan; "4 small" is a copy of 4, "shrunk" is a copy of a test image
    # low: without 0 (also in middle) and 2 (also in test), with brighter and banner; middle: also print and
    # screenshot
    assert dirty_report.groups == {"award": 8, "low": 6, "middle": 8, "rare": 1}


def test_entries_of_several_images_are_groups(tmp_path):
    for label, name in enumerate(("award", "low")):
        for number in range(6):
            folder = tmp_path / "task" / name / f"entry {number // 2}"
            maker.save(maker.draw(10 * label + number), folder / f"{number}.jpg")
    by_folder = scan(tmp_path / "task")
    assert by_folder.entries == {"train": {"award": 3, "low": 3}}
    assert by_folder.groups == {"award": 3, "low": 3}
    assert kinds(by_folder) == ["small class", "order"]
    by_image = scan(tmp_path / "task", entries="image", order=("low", "award"))
    assert by_image.groups == {"low": 6, "award": 6}
    assert by_image.findings == ()


def test_an_image_in_two_entries_makes_them_one_group(tmp_path):
    for name in ("cat", "dog"):
        for number in range(8):
            maker.save(
                maker.draw(number + 100 * ord(name[0])),
                tmp_path / name / str(number // 2) / f"{number}.jpg",
            )
    shutil.copyfile(tmp_path / "cat/0/0.jpg", tmp_path / "cat/3/copy.jpg")
    assert scan(tmp_path).groups == {"cat": 3, "dog": 4}


def test_without_a_test_split_three_groups_are_needed_and_train_and_val_are_one(tmp_path):
    for name, seed in (("cat", 0), ("dog", 50)):
        for number in range(2):
            maker.save(maker.draw(seed + number), tmp_path / "train" / name / f"{number}.jpg")
        shutil.copyfile(
            tmp_path / "train" / name / "0.jpg", _new_folder(tmp_path / "val" / name) / "copy.jpg"
        )
    report = scan(tmp_path)
    assert kinds(report) == ["class too small", "copies"]
    assert report.groups == {"cat": 2, "dog": 2}


def _new_folder(folder):
    folder.mkdir(parents=True)
    return folder


def test_a_folder_of_ungraded_images_has_no_findings(tmp_path):
    maker.save(maker.draw(1), tmp_path / "one.jpg")
    report = scan(tmp_path)
    assert report.findings == ()
    assert report.readable == {"new": {"": 1}}


def test_a_folder_without_a_readable_image_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        _new_folder(tmp_path / name).joinpath("page.jpg").write_text(f"<html>{name}</html>")
    report = scan(tmp_path)
    assert kinds(report) == ["no picture", "class too small", "skipped"]
    assert report.short_side is None
    assert "2 files, none of which is a readable image" in run_scan(tmp_path).stdout


@pytest.mark.parametrize(
    ("changed", "kind", "level"),
    [
        ({"groups": {"low": 1, "middle": 6, "award": 6}}, "class too small", "error"),
        ({"groups": {"low": 2, "middle": 6, "award": 6}}, "small class", "warning"),
        ({"groups": {"low": 4, "middle": 6, "award": 6}}, "small class", "warning"),
        ({"groups": {"low": 5, "middle": 6, "award": 6}}, None, None),
        ({"classes": ("low",), "groups": {"low": 9}}, "one class", "error"),
        (
            {"readable": {"train": {"low": 29, "middle": 15, "award": 10}, "test": dict.fromkeys(ORDER, 2)}},
            None,
            None,
        ),
        (
            {"readable": {"train": {"low": 30, "middle": 15, "award": 10}, "test": dict.fromkeys(ORDER, 2)}},
            "imbalance",
            "note",
        ),
        (
            {"readable": {"train": {"low": 30, "middle": 15, "award": 3}, "test": dict.fromkeys(ORDER, 2)}},
            "imbalance",
            "warning",
        ),
        ({"suggested_order": ("very low", "low")}, "order", "note"),
    ],
)
def test_limits(clean_report, changed, kind, level):
    found = list_findings(dataclasses.replace(clean_report, **changed))
    assert [(finding.kind, finding.level) for finding in found] == ([(kind, level)] if kind else [])


def test_an_order_with_spaces_can_be_pasted(clean_report):
    (finding,) = list_findings(dataclasses.replace(clean_report, suggested_order=("very low", "low")))
    assert finding.advice.endswith("--order 'very low,low'")


@pytest.mark.parametrize("seed", [1, 2])
def test_facts_do_not_depend_on_the_order_of_creation(dirty, dirty_report, tmp_path, seed):
    files = [path for path in dirty.rglob("*") if path.is_file()]
    random.Random(seed).shuffle(files)
    other = tmp_path / dirty.name
    for path in files:
        target = other / path.relative_to(dirty)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert dataclasses.replace(scan(other, workers=seed), root=dirty_report.root) == dirty_report


def test_exit_codes(clean, dirty, tmp_path):
    run_scan(clean, "--order", "low,middle,award", "--strict")
    run_scan(clean, "--strict")  # a note: no order was given
    run_scan(dirty)
    run_scan(dirty, "--strict", exit_code=1)
    run_scan(dirty, "--strict", "--json", exit_code=1)


def test_the_output_shows_every_finding_and_escapes_names(dirty, dirty_report):
    out = run_scan(dirty).stdout
    lines = out.splitlines()
    assert r"            = test/middle/line one\n[red]two[/red] \xff.jpg" in lines
    assert not any(ord(letter) < 32 and letter != "\n" for letter in out)
    for finding in dirty_report.findings:
        assert f"{finding.level:<9} {finding.text}" in lines
    assert "award        10     2    -                 8" in lines
    assert "ungraded      -     -    1                 -" in lines
    assert "5 errors" in lines[-1]


def test_hostile_class_names_are_escaped(tmp_path):
    for name in ("[bold]a", "b\x1b[31m\n \udcff"):
        for number in range(6):
            maker.save(maker.draw(number + 100 * len(name)), tmp_path / name / f"{number}.jpg")
    maker.save(maker.draw(7), tmp_path / "tiny [b]" / "0.jpg")
    result = run_scan(tmp_path)
    assert "\x1b" not in result.output
    assert "[bold]a" in result.stdout
    assert r"b\x1b[31m\n \xff" in result.stdout
    assert "'tiny [b]' has 1" in result.stdout
    json.loads(run_scan(tmp_path, "--json").stdout)


def test_long_lists_are_cut_in_the_output_and_complete_in_json(tmp_path):
    for number in range(SHOWN_CASES + 2):
        _new_folder(tmp_path / "cat" / str(number)).joinpath("no.jpg").write_text("no")
    for name in ("cat", "dog"):
        for number in range(5):
            maker.save(maker.draw(number + 100 * ord(name[0])), tmp_path / name / f"{number}.jpg")
    for number in range(SHOWN_COPIES + 3):
        shutil.copyfile(tmp_path / "dog/0.jpg", tmp_path / f"dog/0 {number}.jpg")
    out = run_scan(tmp_path).stdout
    assert out.count("not an image") == SHOWN_CASES
    assert "… and 2 more; all with --json" in out
    assert "= 3 more" in out
    facts = json.loads(run_scan(tmp_path, "--json").stdout)
    assert len(facts["skipped"]) == SHOWN_CASES + 2
    assert len(facts["copies"][0]["places"]) == SHOWN_COPIES + 4


def test_json_holds_every_fact(dirty, dirty_report):
    facts = json.loads(run_scan(dirty, "--json").stdout)
    assert set(facts) == {field.name for field in dataclasses.fields(ScanReport)} | {"needs_person"}
    assert facts["needs_person"] is True
    assert [finding["kind"] for finding in facts["findings"]] == kinds(dirty_report)
    assert facts["copies"][2]["places"][1] == {
        "path": "test/middle/line one\\n[red]two[/red] \\xff.jpg",
        "split": "test",
        "class_name": "middle",
    }
    assert facts["skipped"][0] == ["train/low/cut short.jpg", "truncated"]


def test_an_invalid_data_set_gives_the_same_error_as_extraction(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    arguments = {"scan": [], "extract": ["--weights", "random"]}
    lines = []
    for command, options in arguments.items():
        result = CliRunner().invoke(cli, [command, str(tmp_path), *options])
        assert result.exit_code == 1
        lines.append(result.stderr.splitlines())
    assert lines[0] == lines[1]
    assert len(lines[0]) == 1
    with pytest.raises(DatasetError, match="train"):
        scan(tmp_path)


def test_a_wrong_order_is_refused(clean):
    with pytest.raises(ConfigError, match="--order"):
        scan(clean, order=("low", "high"))


def test_progress_counts_files_and_contents(dirty):
    seen = []
    scan(dirty, on_progress=lambda *step: seen.append(step))
    assert ("hashing", 41, 41) in seen
    assert seen[-1] == ("decoding", 36, 36)  # 5 copies


def test_little_is_kept_in_memory_per_image(dirty, monkeypatch):
    kept = []
    compare = scan_module.find_duplicates

    def watch(images, pictures):
        kept.extend(pictures.values())
        return compare(images, pictures)

    monkeypatch.setattr(scan_module, "find_duplicates", watch)
    scan(dirty)
    assert kept
    for picture in kept:
        assert picture.views == ()
        assert picture.thumbnail.base is None  # a view would keep its whole base array
        assert picture.thumbnail.nbytes == 3072


def test_nothing_is_written(dirty, tmp_path):
    before = {path: os.stat(path).st_mtime_ns for path in [dirty, *dirty.rglob("*")]}
    run_scan(dirty)
    assert {path: os.stat(path).st_mtime_ns for path in [dirty, *dirty.rglob("*")]} == before


def test_every_kind_has_a_level_and_advice():
    for kind in KINDS.values():
        assert kind.level in LEVELS
        assert kind.advice.endswith(".")


def test_many_small_files(tmp_path, long):
    rng, n = np.random.default_rng(0), 2000 if long else 400
    for number in range(n):
        folder = tmp_path / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    shutil.copyfile(tmp_path / "cat/0.png", tmp_path / "dog/again.png")
    report = scan(tmp_path)
    assert report.n_readable == n + 1
    assert kinds(report) == ["same file under two grades", "small pictures"]
    assert report.groups == {"cat": n // 2 - 1, "dog": n // 2}


@pytest.mark.long
def test_the_shared_photographs_have_no_errors_or_warnings(shared_data):
    for name in ("food3", "damage3"):
        report = scan(shared_data / name)
        assert not report.needs_person, report.findings
        assert report.copies == report.near_duplicates == ()
