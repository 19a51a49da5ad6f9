"""The job and the command: where an export is put, what it is held against, what is said and refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.deploy.export import check as check_module, export as job, network
from classify.deploy.export.check import (
    Check,
    Expected,
    compare_outputs,
    draw_pictures,
    expected_grades,
    image_files,
)
from classify.deploy.export.export import export, export_notes
from classify.deploy.export.formats import FORMATS, describe, format_module, pixel_inputs
from classify.deploy.export.network import grading_network
from classify.deploy.predict import predict
from classify.errors import BundleError, CompareError, ExportError
from classify.io.bundle import load_bundle
from featurize import DatasetError


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Run in an empty folder, where the defaults are."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """A format that is written at once and says what its file says."""

    def write(network, place, description):
        place.write_text(json.dumps(description))

    said = SimpleNamespace(added=0.0)
    module = SimpleNamespace(
        require=lambda: None,
        write=write,
        RUNTIME="keras",
        load=lambda place: lambda pixels: np.full((len(pixels["pixels"]), 3), 0.5 + said.added),
    )
    monkeypatch.setattr(job, "format_module", lambda kind: module)
    monkeypatch.setattr("classify.deploy.export.network.grading_network", lambda bundle, **_: None)
    expected = Expected(
        pixels={"pixels": np.zeros((40, 2, 2, 3), np.uint8)},
        probabilities=np.full((40, 3), 0.5),
        as_fitted=None,
        drawn=True,
        problems=(),
    )
    monkeypatch.setattr(job, "expected_grades", lambda *_, **__: expected)
    return said


def test_the_command_writes_checks_and_says_what_it_is(bundles, portfolio, in_folder):
    import onnxruntime

    words = ["export", str(bundles["all"]), "--format", "onnx", "--check", str(portfolio / "test")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    place = "artifacts/exports/drawn/efficientnet_lite0+64px+levels__logreg.onnx"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{place}: ONNX, 13.")
    assert lines[1:4] == [
        "  logreg on efficientnet_lite0+64px+levels",
        "  in: pixels, uint8 (n, 64, 64, 3): upright RGB, resized by squash, bicubic",
        "  out: probabilities, float32 (n, 3): low, middle, award, from worst to best",
    ]
    assert lines[4].startswith("  largest difference from classify predict on 9 images: ")
    assert lines[4].endswith(f"(onnxruntime {onnxruntime.__version__})")
    assert float(lines[4].split(": ")[1].split()[0]) < 1e-5
    assert lines[-1].startswith("python -c 'import onnxruntime; print(")
    assert [path.name for path in (in_folder / "artifacts/exports/drawn").iterdir()] == [
        place.rpartition("/")[2]
    ]


def test_a_run_means_its_recommended_head(bundles, quick, in_folder):
    run = in_folder / "run"
    run.mkdir()
    (run / "bundles").symlink_to(bundles["final"].parent)
    record = {"format": "folio-run", "format_version": 1, "recommended": {"bundle": "bundles/final"}}
    (run / "results.json").write_text(json.dumps(record))
    done = export(run, format="keras", out=in_folder / "a.keras")
    assert (done.head, done.bundle) == ("svm-rbf", run / "bundles/final")


def test_an_earlier_export_is_replaced_only_when_told(bundles, quick, in_folder):
    place = in_folder / "deep" / "a.keras"
    export(bundles["all"], format="keras", out=place)
    place.write_text("mine")
    with pytest.raises(ExportError, match=r"a\.keras: a file is there already\. Replace it with --overwrite"):
        export(bundles["all"], format="keras", out=place)
    assert place.read_text() == "mine"
    export(bundles["all"], format="keras", out=place, overwrite=True)
    assert json.loads(place.read_text())["head"] == "logreg"
    assert [path.name for path in place.parent.iterdir()] == ["a.keras"]


def test_folders_of_others_are_never_replaced(bundles, quick, in_folder):
    (in_folder / "mine").mkdir()
    (in_folder / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CompareError, match="holds other things than a OpenVINO export"):
            export(bundles["all"], format="openvino", out=in_folder / "mine", overwrite=overwrite)
        with pytest.raises(ExportError, match=r"expected a name that ends in \.onnx, as ONNX files do"):
            export(bundles["all"], format="onnx", out=in_folder / "mine", overwrite=overwrite)
    (in_folder / "mine.onnx").mkdir()
    with pytest.raises(ExportError, match="a folder, where the ONNX file should be"):
        export(bundles["all"], format="onnx", out=in_folder / "mine.onnx", overwrite=True)
    with pytest.raises(CompareError, match=r"notes\.txt is a file"):
        export(bundles["all"], format="onnx", out=in_folder / "mine" / "notes.txt" / "a.onnx")


@pytest.mark.parametrize("added", [1.01e-4, float("nan")])
def test_what_differs_is_not_kept(bundles, quick, in_folder, added):
    quick.added = added
    with pytest.raises(
        ExportError,
        match=r"not exported: in keras .* its probabilities differ by up to .* from those of classify "
        r"predict on 40 images, more than 0\.0001",
    ):
        export(bundles["all"], format="keras", out=in_folder / "a.keras")
    assert list(in_folder.iterdir()) == []
    quick.added = 0.99e-4
    done = export(bundles["all"], format="keras", out=in_folder / "a.keras")
    assert done.check.difference == pytest.approx(0.99e-4)


def test_without_its_runtime_nothing_is_compared_and_that_is_said(bundles, quick, in_folder, monkeypatch):
    monkeypatch.setattr(job, "is_installed", lambda package: False)
    done = CliRunner().invoke(cli, ["export", str(bundles["all"]), "--format", "keras", "--out", "a.keras"])
    assert "  not compared with classify predict: nothing here runs Keras" in done.stdout.splitlines()


def test_no_bundle_no_export(in_folder):
    with pytest.raises(BundleError, match="no such folder"):
        export(in_folder / "none", format="keras")
    assert list(in_folder.iterdir()) == []


def test_weights_that_did_not_come_along_are_asked_for(bundles, in_folder):
    """A random network's carried file stands in for weights that only a person can name."""
    import shutil

    from classify.io.manifest import read_manifest, write_manifest
    from featurize.config import config_digest

    lacking = in_folder / "lacking"
    shutil.copytree(bundles["random"], lacking)
    manifest = read_manifest(lacking)
    sha256 = manifest["weights"]["file_sha256"]
    manifest["config"]["weights"] = {"kind": "file", "sha256": sha256, "seed": None}
    manifest["config_digest"] = config_digest(manifest["config"])
    manifest["weights"] = {"kind": "file", "sha256": sha256, "missing": "gone"}
    write_manifest(lacking, {key: one for key, one in manifest.items() if not key.startswith("format")})
    with pytest.raises(BundleError, match=r"lacks the weights of its backbone \(gone\)\. .*--weights FILE"):
        export(lacking, format="keras", out=in_folder / "a.keras")
    made = grading_network(load_bundle(lacking), weights=bundles["random"] / "weights.h5")
    assert made.output_names == ["probabilities"]


def test_carried_random_weights_and_a_temperature_are_in_the_network(bundles, portfolio):
    """Its own squares too: cropped, by another filter."""
    bundle = load_bundle(bundles["random"])
    files = sorted((portfolio / "test").rglob("*.png"))
    expected = expected_grades(bundle, files)
    graded = predict(bundles["random"], files)
    np.testing.assert_array_equal(expected.probabilities, [one.probabilities for one in graded.grades])
    said = grading_network(bundle).predict(expected.pixels["pixels"], verbose=0)
    np.testing.assert_allclose(said, expected.probabilities, rtol=0, atol=2e-6)


def test_a_class_that_a_head_has_never_seen_has_probability_nothing(bundles):
    import dataclasses

    import keras

    bundle = load_bundle(bundles["final"])
    (part,) = bundle.parts
    levels = [keras.Input((width,), dtype="float32") for width in (96, 144, 240, 672, 1280)]
    wider = {**bundle.manifest, "classes": ["a", "b", "c", "d"], "labels": [0, 2, 3]}
    said = [
        network._member(one, {part.config_digest: levels}, name=f"head_{number}")
        for number, one in enumerate((bundle, dataclasses.replace(bundle, manifest=wider)))
    ]
    rows = [np.random.default_rng(0).random((3, level.shape[1])).astype(np.float32) for level in levels]
    three, four = map(np.asarray, keras.Model(levels, said)(rows))
    np.testing.assert_array_equal(four[:, 1], 0.0)
    np.testing.assert_array_equal(four[:, [0, 2, 3]], three)
    expected = bundle.estimator.predict_proba(rows[-1])  # the final level alone
    np.testing.assert_allclose(three, expected, rtol=0, atol=1e-12)


def test_inputs_are_as_many_as_there_are_kinds_of_squares(bundles):
    (alone,) = set(pixel_inputs(load_bundle(bundles["all"])).values())
    assert (alone.name, alone.size, alone.resize, alone.resample) == ("pixels", 64, "squash", "bicubic")
    both = describe(load_bundle(bundles["ensemble"]))
    assert [one["name"] for one in both["inputs"]] == ["pixels_64_squash_bicubic", "pixels_80_crop_lanczos"]
    assert both["heads"] == ["svm-rbf", "logreg", "logreg"]
    assert [one["name"] for one in both["backbones"]] == ["efficientnet_lite0", "mobilenet"]
    assert both["classes"] == ["low", "middle", "award"]


def test_images_that_cannot_be_read_are_named_and_not_compared(bundles, portfolio, tmp_path):
    good = portfolio / "test" / "low" / "0.png"
    (tmp_path / "broken.jpg").write_bytes(good.read_bytes()[:200])
    bundle = load_bundle(bundles["all"])
    expected = expected_grades(bundle, [tmp_path / "broken.jpg", good])
    assert expected.problems == (f"{tmp_path / 'broken.jpg'}: could not be read, and is not compared",)
    assert len(expected.probabilities) == len(expected.pixels["pixels"]) == 1
    with pytest.raises(DatasetError, match=r"broken\.jpg: none of the images to compare on can be read"):
        expected_grades(bundle, [tmp_path / "broken.jpg"])


def test_files_to_compare_on(portfolio, tmp_path):
    one = portfolio / "test" / "low" / "0.png"
    found = image_files([one, portfolio / "test"])
    assert found[0] == one
    assert sorted(found[1:]) == sorted((portfolio / "test").rglob("*.png"))
    with pytest.raises(DatasetError, match="no file in this folder"):
        image_files([tmp_path])


def test_drawn_pictures_differ_and_are_the_same_every_time(tmp_path):
    (tmp_path / "again").mkdir()
    first, again = draw_pictures(tmp_path), draw_pictures(tmp_path / "again")
    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]
    assert len({one.read_bytes() for one in first}) == len(first) == 8


def test_all_rows_are_compared_in_parts():
    probabilities = np.random.default_rng(0).random((70, 2))
    expected = Expected(
        pixels={"pixels": np.arange(70, dtype=np.uint8)[:, None]},
        probabilities=probabilities,
        as_fitted=probabilities + 0.25,
        drawn=False,
        problems=(),
    )
    passes = []

    def run(pixels):
        passes.append(len(pixels["pixels"]))
        said = probabilities[pixels["pixels"][:, 0]].copy()
        said[pixels["pixels"][:, 0] == 69, 1] += 0.5
        return said

    check = compare_outputs(run, expected, runtime="numpy")
    assert passes == [32, 32, 6]
    assert check.difference == pytest.approx(0.5)
    assert check.from_as_fitted == pytest.approx(0.25)
    assert check.runtime == f"numpy {np.__version__}"


def test_a_fast_format_is_compared_in_float32_and_its_distance_is_said(bundles, portfolio, monkeypatch):
    bundle = load_bundle(bundles["all"])
    bundle.manifest["config"]["precision"] = "bfloat16"
    asked = []

    def grades(bundle, files, *, weights, precision):
        asked.append(precision)
        return {0: (0.5, 0.5, 0.0) if precision == "float32" else (0.6, 0.4, 0.0)}

    monkeypatch.setattr(check_module, "_grades", grades)
    expected = expected_grades(bundle, [portfolio / "test" / "low" / "0.png"])
    assert asked == ["float32", None]
    check = compare_outputs(lambda pixels: np.array([[0.5, 0.5, 0.0]]), expected, runtime="keras")
    assert check.difference == 0.0
    (note,) = export_notes(bundle, FORMATS["keras"], check)
    assert note == (
        "the head was fitted on features in bfloat16; the export computes in float32, as classify predict "
        "does where that is not to be had; here it grades in bfloat16, and differs by up to 0.1"
    )


@pytest.mark.parametrize(
    ("join", "said"),
    [
        ("probabilities", "for an entry, take the mean of its images' probabilities"),
        ("features", "classify predict takes the mean of an entry's features, which the mean"),
    ],
)
def test_a_head_for_entries_says_how_they_are_graded(bundles, join, said):
    bundle = load_bundle(bundles["all"])
    bundle.manifest["join"] = join
    check = Check(runtime="x", n_images=1, drawn=True, difference=0.0, from_as_fitted=None)
    (note,) = export_notes(bundle, FORMATS["keras"], check)
    assert note.startswith(
        "the head was fitted on entries of several images, and the export grades one image: "
    )
    assert said in note
    assert describe(bundle)["join"] == join
    assert "INFERENCE_PRECISION_HINT" in export_notes(bundle, FORMATS["openvino"], check)[-1]


def test_every_format_is_there():
    assert list(FORMATS) == ["keras", "saved_model", "onnx", "openvino"]
    for one in FORMATS.values():
        module = format_module(one)
        module.require()
        assert check_module.is_installed(module.RUNTIME)
    assert not check_module.is_installed("no-such-runtime")
