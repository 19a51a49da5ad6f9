"""How a limit is typed, and what follows from it by hand arithmetic."""

import pytest

from classify.data import memory as memory_module
from classify.data.memory import StoreSizes, parse_memory, search_rows, working_bytes
from classify.errors import CompareError
from featurize import ConfigError

GB = 10**9
SMALL = StoreSizes(n_images=1_000, features=10**7, largest=2_500_000)
LARGE = StoreSizes(n_images=1_000_000, features=4 * 1_280_000_000, largest=1_280_000_000)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("4GB", 4 * GB), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("2G", 2 * GB), ("1TB", 10**12)],
)
def test_sizes_are_numbers_with_units(text, n_bytes):
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["10", "4XB", "GB", "-1GB", "4GBs", "", "4,5GB", "nanGB"])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(ConfigError, match=r"--memory .*: expected a number and a unit, such as 4GB"):
        parse_memory(text)


def test_features_that_fit_are_in_memory():
    assert working_bytes(SMALL, memory="2GB", networks=True, jobs=2) is None
    assert working_bytes(LARGE, memory=None, networks=True, jobs=2) is None or memory_module.machine_bytes()


def test_the_rest_of_the_limit_is_for_rows():
    left = working_bytes(LARGE, memory="6GB", networks=False, jobs=1)
    assert left == 6 * GB - memory_module.LIBRARY_BYTES - 1_000_000 * memory_module.BYTES_PER_IMAGE
    with_network = working_bytes(LARGE, memory="6GB", networks=True, jobs=1)
    assert with_network == left - memory_module.TENSORFLOW_BYTES


@pytest.mark.parametrize("memory", ["10B", "900MB", "1.5GB"])
def test_a_limit_below_the_tables_is_refused(memory):
    with pytest.raises(
        CompareError, match=rf"--memory {memory}: too small. Libraries .* 1,000,000 images .*GB"
    ):
        working_bytes(LARGE, memory=memory, networks=False, jobs=1)


def test_the_suggested_limit_is_sufficient():
    with pytest.raises(CompareError) as error:
        working_bytes(LARGE, memory="1GB", networks=True, jobs=2)
    named = str(error.value).rpartition("--memory ")[2]
    left = working_bytes(LARGE, memory=named, networks=True, jobs=2)
    assert left is not None
    assert left >= memory_module.MIN_WORKING_BYTES


def test_features_larger_than_the_machine_need_a_limit(monkeypatch):
    monkeypatch.setattr(memory_module, "machine_bytes", lambda: 4 * GB)
    with pytest.raises(CompareError, match=r"read from disk: --memory 2GB"):
        working_bytes(LARGE, memory=None, networks=False, jobs=1)
    assert working_bytes(SMALL, memory=None, networks=False, jobs=1) is None


def test_a_search_fits_in_the_limit():
    for left in (3 * 10**8, 10**9, 10**11):
        rows = search_rows(left, n_features=1280, jobs=2)
        assert 0 < rows <= memory_module.MAX_SEARCH_ROWS
        assert (
            rows * 1280 * (memory_module.BYTES_PER_VALUE + 2 * memory_module.BYTES_PER_FITTED_VALUE) <= left
        )
