"""Feature rows in memory and on disk, and a round trip through the file of a head."""

import hashlib

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from classify.data.blocks import RowStream, SourceRows
from classify.io.head_file import dump_head, file_name, load_head


def make_blobs(n=90, n_features=12, n_classes=3, *, seed=0, apart=2.0):
    """Return features like a backbone's, float32 and not negative, and their classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features)) * apart
    return np.maximum(centres[y] + generator.normal(size=(n, n_features)) + 1, 0).astype(np.float32), y


@pytest.fixture
def blobs():
    """Make rows; see `make_blobs`."""
    return make_blobs


class RowsInMemory:
    """A `RowSource` in memory: rows in an order of its own, returned in chunks."""

    def __init__(self, rows, *, chunk_rows):
        self.rows, self.shape, self.chunk_rows = rows, rows.shape, chunk_rows

    def blocks(self, rows, *, most_rows):
        for start in range(0, len(rows), self.chunk_rows):
            part = slice(start, min(start + self.chunk_rows, len(rows)))
            yield part, self.rows[rows[part]]


@pytest.fixture
def stream_of():
    """Return a function that makes a stream of rows stored in another order, in chunks of any size."""

    def make(X, y, *, groups=None, image=None, chunk_rows=64, working_bytes=2**30, seed=0):
        image = np.arange(len(y)) if image is None else image
        position = np.random.default_rng(seed).permutation(len(y))  # stream position of each stored row
        piece = SourceRows(
            source=RowsInMemory(X[position], chunk_rows=chunk_rows),
            rows=np.arange(len(y)),
            position=position[:, None],
        )
        return RowStream(
            y=y,
            groups=image if groups is None else groups,
            image=image,
            is_plain=np.r_[True, image[1:] != image[:-1]],
            pieces=(piece,),
            columns=slice(0, X.shape[1]),
            working_bytes=working_bytes,
        )

    return make


@pytest.fixture
def small_sample(monkeypatch):
    """Use samples of few rows, as for streams of millions of rows; one thread, as in tasks."""
    monkeypatch.setattr("classify.heads.solvers.scaling.MIN_SAMPLE_ROWS", 32)
    with threadpool_limits(1):
        yield


@pytest.fixture
def saved_and_loaded(tmp_path):
    """Return a function that writes a fitted head to its file and loads it, as for a bundle."""

    def through_a_file(head, name):
        saved = dump_head(head, name)
        file = tmp_path / file_name(name)
        file.write_bytes(saved.data)
        digest = hashlib.sha256(saved.data).hexdigest()
        manifest = {"head": name, "labels": list(saved.labels), "head_sha256": digest}
        loaded = load_head(file, manifest, n_features=head.n_features_in_)
        assert set(vars(loaded)) == set(vars(head))  # no attribute is lost
        return loaded

    return through_a_file
