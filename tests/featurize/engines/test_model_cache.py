"""Cache of converted networks: returns exactly what was saved, or nothing."""

import dataclasses
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.base import project
from featurize.engines import openvino
from featurize.engines.freeze import NetworkSpec
from featurize.engines.openvino import ConvertedNetwork, load_model, model_key, save_model

KEY = "0123456789abcdef" * 4


def _model(size=100, structure=b"<net/>", about=None):
    return ConvertedNetwork(
        about=about or {"level_ends": [3]}, structure=structure, weights=bytes(range(size))
    )


def _same(one, other):
    return (one.about, one.structure, one.weights) == (other.about, other.structure, other.weights)


def _only_file(folder):
    (path,) = folder.iterdir()
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    structure=st.binary(max_size=300),
    weights=st.binary(max_size=300),
    about=st.dictionaries(st.text(), st.integers() | st.lists(st.text())),
)
def test_a_saved_network_is_loaded_unchanged(tmp_path, structure, weights, about):
    model = ConvertedNetwork(about=about, structure=structure, weights=weights)
    assert save_model(tmp_path, KEY, model)
    assert _same(load_model(tmp_path, KEY), model)
    assert _only_file(tmp_path).name.startswith(KEY)  # and no unfinished file


def test_another_key_finds_nothing(tmp_path):
    assert load_model(tmp_path / "missing", KEY) is None
    save_model(tmp_path, KEY, _model())
    assert load_model(tmp_path, KEY[::-1]) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_detected_at_any_position(tmp_path, position, bit):
    save_model(tmp_path, KEY, _model())
    path = _only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    assert load_model(tmp_path, KEY) is None


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[:20], lambda c: b""])
def test_a_file_of_wrong_length_is_ignored(tmp_path, change):
    save_model(tmp_path, KEY, _model())
    path = _only_file(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    assert load_model(tmp_path, KEY) is None


def test_a_folder_instead_of_a_file_is_ignored(tmp_path):
    (tmp_path / f"{KEY}.model").mkdir()
    assert load_model(tmp_path, KEY) is None
    assert not save_model(tmp_path, KEY, _model())


def _aged(folder, key, hours):
    then = time.time() - 3600 * hours
    os.utime(folder / f"{key}.model", (then, then))


def test_the_least_recently_used_network_is_removed(tmp_path):
    """Four files of one size where three fit: one must go, and it is not the oldest, which was used since."""
    one = _model()
    save_model(tmp_path, "a", one)
    limit = 3 * (tmp_path / "a.model").stat().st_size
    for key in "bc":
        save_model(tmp_path, key, one, limit=limit)
    for hours, key in enumerate("cba", start=1):
        _aged(tmp_path, key, hours)
    load_model(tmp_path, "a")
    assert save_model(tmp_path, "d", one, limit=limit)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_network_larger_than_the_limit_is_not_saved_and_removes_nothing(tmp_path):
    save_model(tmp_path, "a", _model())
    assert not save_model(tmp_path, "b", _model(250), limit=300)
    assert [path.stem for path in tmp_path.iterdir()] == ["a"]


def test_the_limit_is_some_gigabytes():
    """One file of the largest network, ConvNeXt XLarge, is 1.4 GB."""
    assert 2.8e9 < openvino.CACHE_LIMIT < 10e9


def test_old_unfinished_files_of_killed_runs_are_removed(tmp_path):
    for name, hours in ((".unfinished-old", 2), (".unfinished-new", 0)):
        (tmp_path / name).write_bytes(b"half")
        then = time.time() - 3600 * hours
        os.utime(tmp_path / name, (then, then))
    save_model(tmp_path, "a", _model())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-new", "a.model"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert not save_model(tmp_path / "file" / "models", KEY, _model())
    assert load_model(tmp_path / "file" / "models", KEY) is None


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not save_model(tmp_path, KEY, _model())
    assert list(tmp_path.iterdir()) == []


# --- keys -----------------------------------------------------------------------------------------

VGG16 = get_backbone("vgg16")
SPEC = NetworkSpec(
    backbone=VGG16,
    weights=find_weights(VGG16, "random", seed=0),
    input_size=224,
    preprocess="featurewise",
    statistics={"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
    levels=False,
    batch_size=8,
)


def test_a_key_is_the_same_for_the_same_settings():
    statistics = dict(reversed(SPEC.statistics.items()))
    assert model_key(SPEC) == model_key(dataclasses.replace(SPEC, statistics=statistics))
    assert len(model_key(SPEC)) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": get_backbone("vgg19")},
        {"weights": find_weights(VGG16, "random", seed=1)},
        {"input_size": 225},
        {"preprocess": "rescale"},
        {"statistics": {"mean": [0.1, 0.2, 0.30000001], "std": [1.0, 1.0, 1.0]}},
        {"levels": True},
        {"batch_size": 4},
    ],
)
def test_every_setting_changes_the_key(change):
    assert model_key(dataclasses.replace(SPEC, **change)) != model_key(SPEC)


@pytest.mark.parametrize("package", ["openvino", "tensorflow", "keras"])
def test_another_version_of_a_converting_package_changes_the_key(monkeypatch, package):
    before = model_key(SPEC)
    real = project.version
    monkeypatch.setattr(project, "version", lambda name: "0" if name == package else real(name))
    assert model_key(SPEC) != before


def test_our_own_code_is_part_of_the_key(monkeypatch, tmp_path):
    """Keys of a copy of the sources: the same, until a line of a network's code changes."""
    import shutil

    import featurize

    shutil.copytree(os.path.dirname(featurize.__file__), tmp_path / "featurize")
    before = model_key(SPEC)
    monkeypatch.setattr(openvino, "__file__", str(tmp_path / "featurize" / "engines" / "openvino.py"))
    for changed in (None, "backbones/networks.py", "engines/freeze.py", "backbones/registry.py"):
        if changed is not None:
            with (tmp_path / "featurize" / changed).open("a") as file:
                file.write("# another line\n")
        project.sources_digest.cache_clear()
        assert (model_key(SPEC) == before) == (changed is None)
        before = model_key(SPEC)
    project.sources_digest.cache_clear()
