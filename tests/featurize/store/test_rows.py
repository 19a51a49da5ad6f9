"""Rows read on demand, compared with h5py."""

import pickle

import h5py
import numpy as np
import pytest

from featurize import StoreError
from featurize.store.rows import StoredRows


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.h5"
    rows = np.random.default_rng(0).normal(size=(103, 5)).astype(np.float16)
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=rows, chunks=(10, 5), fletcher32=True)
    return path


def rows_of(path):
    with h5py.File(path, "r") as file:
        return StoredRows(path, "rows", file=file), file["rows"][:]


@pytest.mark.parametrize(
    "wanted", [[], [0], [102, 3, 3, 50], list(range(103)), list(range(5, 103, 7)), slice(20, 31), 17, -1]
)
def test_rows_equal_those_of_h5py(path, wanted):
    rows, expected = rows_of(path)
    found = rows[np.array(wanted, dtype=np.int64) if isinstance(wanted, list) else wanted]
    assert np.array_equal(found, expected[wanted])
    assert found.dtype == np.float16
    assert (len(rows), rows.shape, rows.chunk_rows) == (103, (103, 5), 10)


@pytest.mark.parametrize("most_rows", [1, 10, 25, 1000])
def test_blocks_read_each_chunk_once_and_no_other(path, monkeypatch, most_rows):
    rows, expected = rows_of(path)
    wanted = np.array([3, 3, 8, 10, 31, 32, 45, 99, 102])
    read = []
    original = StoredRows._read
    monkeypatch.setattr(StoredRows, "_read", lambda self, *span: read.append(span) or original(self, *span))
    parts = list(rows.blocks(wanted, most_rows=most_rows))
    assert np.array_equal(np.concatenate([wanted[part] for part, _ in parts]), wanted)
    assert np.array_equal(np.concatenate([block for _, block in parts]), expected[wanted])
    chunks = [chunk for first, end in read for chunk in range(first // 10, -(-end // 10))]
    assert chunks == [0, 1, 3, 4, 9, 10]
    assert all(end - first <= max(10, most_rows) for first, end in read)


def test_rows_can_be_pickled(path):
    rows, expected = rows_of(path)
    assert np.array_equal(pickle.loads(pickle.dumps(rows))[[5, 99]], expected[[5, 99]])


def test_a_file_that_was_replaced_is_refused(path):
    rows, _ = rows_of(path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(StoreError, match="was replaced while it was being read"):
        rows[3]


def test_a_flipped_bit_is_a_store_error(path):
    rows, _ = rows_of(path)
    with h5py.File(path, "r") as file:
        start = file["rows"].id.get_chunk_info(4).byte_offset
        salvaged = StoredRows(path, "rows", file=file, salvage=True)
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\xff\xff")
        assert not salvaged[np.arange(40, 50)].any()
    rows = StoredRows.__new__(StoredRows)
    rows.__dict__ = {**salvaged.__getstate__(), "_salvage": False}
    rows._version = tuple(getattr(path.stat(), name) for name in ("st_ino", "st_size", "st_mtime_ns"))
    with pytest.raises(StoreError, match=r"rows, rows 40 to 49, is damaged on disk .*featurize repair"):
        rows[44]


def test_a_row_beyond_the_end_is_an_error(path):
    rows, _ = rows_of(path)
    with pytest.raises(IndexError, match="row 103 is out of range"):
        rows[103]
