"""Slices: all items once, in their order, of a size that follows the time they take."""

import pytest
from hypothesis import given, strategies as st

from featurize.extraction.dask_client import (
    FIRST_SLICE,
    LEAST_SLICE,
    MOST_SLICE,
    SLICE_SECONDS,
    AdaptiveChunks,
)


@given(st.integers(0, 2000), st.integers(1, 9), st.floats(1e-9, 1e3))
def test_every_item_is_in_one_slice(n_items, n_workers, an_item):
    cut, found = AdaptiveChunks(range(n_items)), []
    while (one := cut.take(n_workers)) is not None:
        found.append(one)
        cut.returned(one, an_item * len(one.items))
    assert [item for one in found for item in one.items] == list(range(n_items))
    assert [one.number for one in found] == list(range(len(found)))
    assert all(0 < len(one.items) <= MOST_SLICE for one in found)


@pytest.mark.parametrize(
    ("an_item", "expected"), [(SLICE_SECONDS / 40, 40), (1e-6, MOST_SLICE), (1e6, LEAST_SLICE)]
)
def test_slices_become_as_long_as_they_should_take(an_item, expected):
    cut = AdaptiveChunks(range(100_000))
    first = cut.take(2)
    assert len(first.items) == FIRST_SLICE
    cut.returned(first, an_item * FIRST_SLICE)
    assert len(cut.take(2).items) == expected


def test_the_last_slices_are_small_so_that_all_end_together():
    cut = AdaptiveChunks(range(40))
    assert [len(cut.take(2).items) for _ in range(3)] == [10, 7, 5]  # a quarter of what is left: 40, 30, 23
