"""Parts of an unfinished run: complete and unchanged, or ignored."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from featurize.errors import StoreError
from featurize.store.columns import LevelColumns
from featurize.store.parts import (
    ContentMeta,
    Part,
    PartIndex,
    RunChoices,
    discard_parts,
    load_run_choices,
    part_paths,
    read_part,
    save_run_choices,
    write_part,
)

DIGEST = "d" * 64


def make_part(*numbers: int) -> Part:
    part = Part()
    for number in numbers:
        sha256 = f"{number:064x}"
        thumbnail = np.full((32, 32, 3), number, np.uint8)
        part.meta[sha256] = ContentMeta(width=number, height=9, phash=2**63 + number, thumbnail=thumbnail)
        for view in range(3):
            part.features[sha256, view] = np.array([number, view, 0.5], np.float32)
    part.failed["f" * 64] = "not an image"
    return part


def test_a_part_is_an_hdf5_file_named_by_the_hash_of_its_bytes(tmp_path):
    path = write_part(tmp_path, make_part(1, 2), config_digest=DIGEST)
    assert path.name == hashlib.sha256(path.read_bytes()).hexdigest() + ".part"
    with h5py.File(path) as file:
        assert file.attrs["config_digest"] == DIGEST
        assert [name.decode() for name in file["sha256"]] == [f"{1:064x}", f"{2:064x}"]
        np.testing.assert_array_equal(file["row_content"][:], [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(file["row_view"][:], [0, 1, 2, 0, 1, 2])
        np.testing.assert_array_equal(file["features"][4], [2, 1, 0.5])
        np.testing.assert_array_equal(file["phash"][:], [2**63 + 1, 2**63 + 2])
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_is_read_as_it_was_written(tmp_path):
    path = write_part(tmp_path, make_part(1, 2), config_digest=DIGEST)
    part = read_part(path, config_digest=DIGEST)
    assert part is not None
    assert part.failed == {"f" * 64: "not an image"}
    assert sorted(part.features) == [(f"{number:064x}", view) for number in (1, 2) for view in range(3)]
    np.testing.assert_array_equal(part.features[f"{2:064x}", 1], [2, 1, 0.5])
    assert part.meta[f"{1:064x}"].width == 1
    np.testing.assert_array_equal(part.meta[f"{2:064x}"].thumbnail, np.full((32, 32, 3), 2))


def test_parts_of_several_stores_are_written_at_once(tmp_path):
    """A run with several backbones has a thread for each."""
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            done = [
                threads.submit(write_part, folder, make_part(number), config_digest=DIGEST)
                for number, folder in enumerate(folders)
            ]
            for number, path in enumerate(done):
                part = read_part(path.result(), config_digest=DIGEST)
                assert part is not None
                assert list(part.meta) == [f"{number:064x}"]


def test_a_part_of_failures_only(tmp_path):
    path = write_part(tmp_path, Part(failed={"a" * 64: "truncated"}), config_digest=DIGEST)
    part = read_part(path, config_digest=DIGEST)
    assert part is not None
    assert (part.meta, part.features, part.failed) == ({}, {}, {"a" * 64: "truncated"})


def test_a_changed_or_truncated_part_is_never_used(tmp_path):
    path = write_part(tmp_path, make_part(1), config_digest=DIGEST)
    data = path.read_bytes()
    for position in range(0, len(data), max(1, len(data) // 200)):
        changed = bytearray(data)
        changed[position] ^= 16
        path.write_bytes(changed)
        assert read_part(path, config_digest=DIGEST) is None
        path.write_bytes(data[:position])
        assert read_part(path, config_digest=DIGEST) is None


def test_a_part_of_another_config_is_not_used(tmp_path):
    path = write_part(tmp_path, make_part(1), config_digest="e" * 64)
    assert read_part(path, config_digest=DIGEST) is None
    assert PartIndex(tmp_path, config_digest=DIGEST).damaged == [path]


def test_the_index_lists_the_finished_views_and_reads_them(tmp_path):
    for number in range(6):
        write_part(tmp_path, make_part(number), config_digest=DIGEST)
    index = PartIndex(tmp_path, config_digest=DIGEST)
    assert len(index) == 6
    assert index.views(f"{3:064x}") == {0, 1, 2}
    assert index.views("0" * 63 + "9") == frozenset()
    for number in (0, 5, 1, 4, 2, 3):
        assert [features[0] for _, features in index.features(f"{number:064x}")] == [number] * 3
        assert index.meta(f"{number:064x}").width == number


def test_run_choices_are_saved_and_removed_with_the_folder(tmp_path):
    folder = tmp_path / "x.h5.parts"
    assert load_run_choices(folder) is None
    save_run_choices(folder, RunChoices(config={"statistics": {"mean": [0.1]}}, precision=None))
    last = RunChoices(
        config={"statistics": {"mean": [0.2]}}, precision={"tried": "bfloat16", "cosine": 0.9995}
    )
    save_run_choices(folder, last)
    assert load_run_choices(folder) == last
    discard_parts(folder)
    assert not folder.exists()
    assert load_run_choices(folder) is None


def test_a_part_has_its_level_columns(tmp_path):
    part = make_part(1)
    part.columns = LevelColumns(names=("1/2", "final"), ends=(1, 3))
    path = write_part(tmp_path, part, config_digest=DIGEST)
    with h5py.File(path) as file:
        assert list(file.attrs["level_names"]) == ["1/2", "final"]
        assert list(file.attrs["level_ends"]) == [1, 3]
    assert PartIndex(tmp_path, config_digest=DIGEST).columns == part.columns


def test_a_part_without_features_has_no_levels(tmp_path):
    write_part(tmp_path, Part(failed={"f" * 64: "not an image"}), config_digest=DIGEST)
    assert PartIndex(tmp_path, config_digest=DIGEST).columns is None


def test_a_folder_that_cannot_be_created_is_a_clear_error(tmp_path):
    (tmp_path / "x.h5.parts").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot write to this folder .*Finished work is kept"):
        save_run_choices(tmp_path / "x.h5.parts", RunChoices(config={}, precision=None))


def test_run_choices_that_cannot_be_read_are_a_clear_error(tmp_path):
    (tmp_path / "settled.json").mkdir()
    with pytest.raises(StoreError, match=r"settled\.json: cannot be read \(.*run the same command again"):
        load_run_choices(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "7"])
def test_damaged_run_choices_are_ignored(tmp_path, text):
    (tmp_path / "settled.json").write_text(text)
    assert load_run_choices(tmp_path) is None


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    kept = write_part(tmp_path, make_part(1), config_digest=DIGEST)

    def full(path):
        assert path.stat().st_size > 0
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featurize.base.files.fsync_file", full)
    with pytest.raises(StoreError, match=r"No space left on device.*Finished work is kept"):
        write_part(tmp_path, make_part(2), config_digest=DIGEST)
    assert part_paths(tmp_path) == [kept]
    assert list(tmp_path.iterdir()) == [kept]
