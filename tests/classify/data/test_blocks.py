"""Rows by blocks: each once, in an order that no thread changes, as many as memory allows."""

import threading

import numpy as np
import pytest

from classify.data.blocks import BYTES_PER_VALUE, RowStream, SourceRows, SpooledRows


class Blocks:
    """A source that remembers how many rows it was asked for at a time."""

    def __init__(self, rows):
        self.rows, self.shape, self.chunk_rows, self.asked = rows, rows.shape, 5, []

    def blocks(self, rows, *, most_rows):
        self.asked.append(most_rows)
        for start in range(0, len(rows), max(1, most_rows)):
            part = slice(start, min(start + max(1, most_rows), len(rows)))
            yield part, self.rows[rows[part]]


@pytest.fixture
def make(monkeypatch):
    """Two sources: a plain row, and two views, of each of 40 images."""
    monkeypatch.setattr("classify.data.blocks.available_cores", lambda: 2)

    def made(working_bytes=2**20):
        rows = np.arange(40 * 3 * 4, dtype=np.float16).reshape(40, 3, 4)
        order = np.random.default_rng(0).permutation(40)
        plain = SourceRows(source=Blocks(rows[order, 0]), rows=np.arange(40), position=order[:, None] * 3)
        views = SourceRows(
            source=Blocks(rows[order, 1:]), rows=np.arange(40), position=order[:, None] * 3 + [1, 2]
        )
        image = np.repeat(np.arange(40), 3)
        return RowStream(
            y=image % 2,
            groups=image,
            image=image,
            is_plain=np.arange(120) % 3 == 0,
            pieces=(plain, views),
            columns=slice(1, 4),
            working_bytes=working_bytes,
        ), rows.reshape(120, 4)[:, 1:]

    return made


@pytest.mark.parametrize("working_bytes", [1, 2**12, 2**30])
def test_map_blocks_visits_each_row_once_with_its_position(make, working_bytes):
    stream, expected = make(working_bytes)
    found = list(stream.map_blocks(lambda where, X: (where, X)))
    where = np.concatenate([one for one, _ in found])
    assert sorted(where.tolist()) == list(range(120))
    assert np.array_equal(np.concatenate([X for _, X in found]), expected[where].astype(np.float32))
    assert (stream.n_features, len(stream)) == (3, 120)


def test_map_blocks_reads_only_chosen_rows(make):
    stream, _ = make()
    chosen = np.arange(120) % 7 == 0
    where = np.concatenate(list(stream.map_blocks(lambda where, X: where, chosen=chosen)))
    assert sorted(where.tolist()) == np.flatnonzero(chosen).tolist()


def test_take_returns_rows_in_the_given_order(make):
    stream, expected = make()
    wanted = np.array([119, 3, 64, 0])
    assert np.array_equal(stream.take(wanted), expected[wanted])


def test_blocks_are_as_large_as_memory_allows(make):
    stream, _ = make(working_bytes=2 * 4 * BYTES_PER_VALUE * 40)  # two threads, two more blocks waiting
    list(stream.map_blocks(lambda where, X: None))
    plain, views = stream.pieces
    assert plain.source.asked == [10]  # of 4 values
    assert views.source.asked == [5]  # of 8


def test_an_error_in_a_thread_is_raised(make):
    stream, _ = make(working_bytes=1)

    def fail(where, X):
        raise ValueError("no")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no"):
        list(stream.map_blocks(fail))
    assert threading.active_count() == before


def test_spooled_rows_are_read_as_they_were_written():
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    with SpooledRows(6, rows_at_once=8) as spool:
        for start in range(0, 50, 13):
            spool.append(rows[start : start + 13])
        wanted = np.array([0, 1, 7, 20, 20, 49])
        parts = list(spool.blocks(wanted, most_rows=6))
        assert np.array_equal(np.concatenate([block for _, block in parts]), rows[wanted])
        assert np.array_equal(np.concatenate([wanted[part] for part, _ in parts]), wanted)
