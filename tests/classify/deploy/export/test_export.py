"""`export` and its command: output paths, comparison with `predict`, notes, errors."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.deploy.export import check as check_module, export as job, network
from classify.deploy.export.check import (
    ExpectedOutputs,
    OutputCheck,
    compare_outputs,
    expected_outputs,
    image_files,
    write_synthetic_images,
)
from classify.deploy.export.export import export, export_notes
from classify.deploy.export.formats import FORMATS, describe, format_module, pixel_inputs
from classify.deploy.export.network import export_network
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

    def write(network, path, description):
        path.write_text(json.dumps(description))

    said = SimpleNamespace(added=0.0)
    module = SimpleNamespace(
        require=lambda: None,
        write=write,
        RUNTIME="keras",
        load=lambda path: lambda pixels: np.full((len(pixels["pixels"]), 3), 0.5 + said.added),
    )
    monkeypatch.setattr(job, "format_module", lambda kind: module)
    monkeypatch.setattr("classify.deploy.export.network.export_network", lambda bundle, **_: None)
    expected = ExpectedOutputs(
        pixels={"pixels": np.zeros((40, 2, 2, 3), np.uint8)},
        probabilities=np.full((40, 3), 0.5),
        as_fitted=None,
        is_synthetic=True,
        problems=(),
    )
    monkeypatch.setattr(job, "expected_outputs", lambda *_, **__: expected)
    return said


def test_the_command_writes_and_compares(bundles, portfolio, in_folder):
    import onnxruntime

    words = ["export", str(bundles["all"]), "--format", "onnx", "--check", str(portfolio / "test")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    path = "artifacts/exports/drawn/efficientnet_lite0+64px+levels__logreg.onnx"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{path}: ONNX, 13.")
    assert lines[1:4] == [
        "  logreg on efficientnet_lite0+64px+levels",
        "  input: pixels, uint8 (n, 64, 64, 3), upright RGB, resized by squash, bicubic",
        "  output: probabilities, float32 (n, 3): low, middle, award, from worst to best",
    ]
    assert lines[4].startswith("  largest difference from classify predict on 9 images: ")
    assert lines[4].endswith(f"(onnxruntime {onnxruntime.__version__})")
    assert float(lines[4].split(": ")[1].split()[0]) < 1e-5
    assert lines[-1].startswith("python -c 'import onnxruntime; print(")
    assert [path.name for path in (in_folder / "artifacts/exports/drawn").iterdir()] == [
        path.rpartition("/")[2]
    ]


def test_a_run_stands_for_its_recommended_head(bundles, quick, in_folder):
    run = in_folder / "run"
    run.mkdir()
    (run / "bundles").symlink_to(bundles["final"].parent)
    record = {"format": "folio-run", "format_version": 1, "recommended": {"bundle": "bundles/final"}}
    (run / "results.json").write_text(json.dumps(record))
    done = export(run, format="keras", out=in_folder / "a.keras")
    assert (done.head, done.bundle) == ("svm-rbf", run / "bundles/final")


def test_an_existing_export_is_replaced_only_with_overwrite(bundles, quick, in_folder):
    path = in_folder / "deep" / "a.keras"
    export(bundles["all"], format="keras", out=path)
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"a\.keras: exists already\. Replace it with --overwrite"):
        export(bundles["all"], format="keras", out=path)
    assert path.read_text() == "mine"
    export(bundles["all"], format="keras", out=path, overwrite=True)
    assert json.loads(path.read_text())["head"] == "logreg"
    assert [path.name for path in path.parent.iterdir()] == ["a.keras"]


def test_other_folders_are_never_replaced(bundles, quick, in_folder):
    (in_folder / "mine").mkdir()
    (in_folder / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CompareError, match="contains something other than a OpenVINO export"):
            export(bundles["all"], format="openvino", out=in_folder / "mine", overwrite=overwrite)
        with pytest.raises(ExportError, match=r"expected a name ending in \.onnx for ONNX"):
            export(bundles["all"], format="onnx", out=in_folder / "mine", overwrite=overwrite)
    (in_folder / "mine.onnx").mkdir()
    with pytest.raises(ExportError, match="a folder; expected a ONNX file"):
        export(bundles["all"], format="onnx", out=in_folder / "mine.onnx", overwrite=True)
    with pytest.raises(CompareError, match=r"notes\.txt is a file"):
        export(bundles["all"], format="onnx", out=in_folder / "mine" / "notes.txt" / "a.onnx")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_to_compare_on_is_one_file(bundles, quick, in_folder, monkeypatch, kind):
    compared = []
    expected = job.expected_outputs(None)

    def expected_outputs(bundle, images, *, weights):
        compared.append(list(images))
        return expected

    monkeypatch.setattr(job, "expected_outputs", expected_outputs)
    file = in_folder / "a.png"
    for number, check in enumerate([kind(file), [kind(file)], ()]):
        export(str(bundles["all"]), format="keras", out=kind(in_folder / f"{number}.keras"), check=check)
    assert compared == [[file], [file], []]


@pytest.mark.parametrize("added", [1.01e-4, float("nan")])
def test_an_export_that_differs_is_not_kept(bundles, quick, in_folder, added):
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


def test_without_the_runtime_nothing_is_compared(bundles, quick, in_folder, monkeypatch):
    monkeypatch.setattr(job, "is_installed", lambda package: False)
    done = CliRunner().invoke(cli, ["export", str(bundles["all"]), "--format", "keras", "--out", "a.keras"])
    assert (
        "  not compared with classify predict: the runtime of Keras is not installed"
        in done.stdout.splitlines()
    )


def test_a_missing_bundle_is_refused(in_folder):
    with pytest.raises(BundleError, match="no such folder"):
        export(in_folder / "none", format="keras")
    assert list(in_folder.iterdir()) == []


def test_missing_weights_can_be_named(bundles, in_folder):
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
    made = export_network(load_bundle(lacking), weights=bundles["random"] / "weights.h5")
    assert made.output_names == ["probabilities"]


def test_random_weights_and_temperature_are_in_the_network(bundles, portfolio):
    """Its own squares too: cropped, by another filter."""
    bundle = load_bundle(bundles["random"])
    files = sorted((portfolio / "test").rglob("*.png"))
    expected = expected_outputs(bundle, files)
    graded = predict(bundles["random"], files)
    np.testing.assert_array_equal(expected.probabilities, [one.probabilities for one in graded.grades])
    said = export_network(bundle).predict(expected.pixels["pixels"], verbose=0)
    np.testing.assert_allclose(said, expected.probabilities, rtol=0, atol=2e-6)


def test_a_class_without_training_images_has_probability_0(bundles):
    import dataclasses

    import keras

    bundle = load_bundle(bundles["final"])
    (part,) = bundle.parts
    levels = [keras.Input((width,), dtype="float32") for width in (96, 144, 240, 672, 1280)]
    wider = {**bundle.manifest, "classes": ["a", "b", "c", "d"], "labels": [0, 2, 3]}
    said = [
        network._member_probabilities(one, {part.config_digest: levels}, name=f"head_{number}")
        for number, one in enumerate((bundle, dataclasses.replace(bundle, manifest=wider)))
    ]
    rows = [np.random.default_rng(0).random((3, level.shape[1])).astype(np.float32) for level in levels]
    three, four = map(np.asarray, keras.Model(levels, said)(rows))
    np.testing.assert_array_equal(four[:, 1], 0.0)
    np.testing.assert_array_equal(four[:, [0, 2, 3]], three)
    expected = bundle.estimator.predict_proba(rows[-1])  # the final level alone
    np.testing.assert_allclose(three, expected, rtol=0, atol=1e-12)


def test_one_input_per_size_and_resize_mode(bundles):
    (alone,) = set(pixel_inputs(load_bundle(bundles["all"])).values())
    assert (alone.name, alone.size, alone.resize, alone.resample) == ("pixels", 64, "squash", "bicubic")
    both = describe(load_bundle(bundles["ensemble"]))
    assert [one["name"] for one in both["inputs"]] == ["pixels_64_squash_bicubic", "pixels_80_crop_lanczos"]
    assert both["heads"] == ["svm-rbf", "logreg", "logreg"]
    assert [one["name"] for one in both["backbones"]] == ["efficientnet_lite0", "mobilenet"]
    assert both["classes"] == ["low", "middle", "award"]


def test_unreadable_images_are_not_compared(bundles, portfolio, tmp_path):
    good = portfolio / "test" / "low" / "0.png"
    (tmp_path / "broken.jpg").write_bytes(good.read_bytes()[:200])
    bundle = load_bundle(bundles["all"])
    expected = expected_outputs(bundle, [tmp_path / "broken.jpg", good])
    assert expected.problems == (f"{tmp_path / 'broken.jpg'}: could not be read, and is not compared",)
    assert len(expected.probabilities) == len(expected.pixels["pixels"]) == 1
    with pytest.raises(DatasetError, match=r"broken\.jpg: none of the images to compare on can be read"):
        expected_outputs(bundle, [tmp_path / "broken.jpg"])


def test_files_to_compare_on(portfolio, tmp_path):
    one = portfolio / "test" / "low" / "0.png"
    found = image_files([one, portfolio / "test"])
    assert found[0] == one
    assert sorted(found[1:]) == sorted((portfolio / "test").rglob("*.png"))
    with pytest.raises(DatasetError, match="no file in this folder"):
        image_files([tmp_path])


def test_synthetic_images_are_distinct_and_reproducible(tmp_path):
    (tmp_path / "again").mkdir()
    first, again = write_synthetic_images(tmp_path), write_synthetic_images(tmp_path / "again")
    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]
    assert len({one.read_bytes() for one in first}) == len(first) == 8


def test_all_images_are_compared_in_batches():
    probabilities = np.random.default_rng(0).random((70, 2))
    expected = ExpectedOutputs(
        pixels={"pixels": np.arange(70, dtype=np.uint8)[:, None]},
        probabilities=probabilities,
        as_fitted=probabilities + 0.25,
        is_synthetic=False,
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
    assert check.difference_as_fitted == pytest.approx(0.25)
    assert check.runtime == f"numpy {np.__version__}"


def test_a_reduced_precision_is_compared_in_float32(bundles, portfolio, monkeypatch):
    bundle = load_bundle(bundles["all"])
    bundle.manifest["config"]["precision"] = "bfloat16"
    precisions = []

    def grades(bundle, files, *, weights, precision):
        precisions.append(precision)
        return {0: (0.5, 0.5, 0.0) if precision == "float32" else (0.6, 0.4, 0.0)}

    monkeypatch.setattr(check_module, "_probabilities", grades)
    expected = expected_outputs(bundle, [portfolio / "test" / "low" / "0.png"])
    assert precisions == ["float32", None]
    check = compare_outputs(lambda pixels: np.array([[0.5, 0.5, 0.0]]), expected, runtime="keras")
    assert check.difference == 0.0
    (note,) = export_notes(bundle, FORMATS["keras"], check)
    assert note == (
        "the head was fitted on features in bfloat16; the export computes in float32, as classify predict "
        "does on machines without that precision; on this machine classify predict computes in bfloat16, "
        "and its probabilities differ by up to 0.1"
    )


@pytest.mark.parametrize(
    ("join", "said"),
    [
        ("probabilities", "for an entry, average the probabilities of its images"),
        ("features", "classify predict averages the features of an entry's images, which averaging"),
    ],
)
def test_note_about_entries_of_several_images(bundles, join, said):
    bundle = load_bundle(bundles["all"])
    bundle.manifest["join"] = join
    check = OutputCheck(runtime="x", n_images=1, is_synthetic=True, difference=0.0, difference_as_fitted=None)
    (note,) = export_notes(bundle, FORMATS["keras"], check)
    assert note.startswith(
        "the head was fitted on entries of several images, and the export predicts one image: "
    )
    assert said in note
    assert describe(bundle)["join"] == join
    assert "INFERENCE_PRECISION_HINT" in export_notes(bundle, FORMATS["openvino"], check)[-1]


def test_every_format_can_be_written_here():
    assert list(FORMATS) == ["keras", "saved_model", "onnx", "openvino"]
    for one in FORMATS.values():
        module = format_module(one)
        module.require()
        assert check_module.is_installed(module.RUNTIME)
    assert not check_module.is_installed("no-such-runtime")
