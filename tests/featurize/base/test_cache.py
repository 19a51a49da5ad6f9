"""Where caches lie; what is kept there is whole or not there at all, and never more than fits."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from featurize.base.cache import CacheEntry, cache_folder, read_cache_entry, trim_cache, write_cache_entry

ENTRY = CacheEntry(
    about={"scores": [0.1, 1 / 3], "notes": ["é"]}, parts={"head": b"\0\n{}", "logs/a": b"log"}
)


def test_the_environment_variable_sets_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path / "mine"))
    assert cache_folder("models") == tmp_path / "mine" / "models"
    assert not (tmp_path / "mine").exists()


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("FOLIO_CACHE", "~/caches")
    assert cache_folder("tuning") == Path.home() / "caches" / "tuning"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the XDG rules are Linux' own")
@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_the_cache_folder_of_the_system(monkeypatch, tmp_path, value):
    """The XDG base directory specification: $XDG_CACHE_HOME, else ~/.cache."""
    monkeypatch.delenv("FOLIO_CACHE")
    if value is not None:
        monkeypatch.setenv("FOLIO_CACHE", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("models") == tmp_path / ".cache" / "folio" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("models") == tmp_path / "xdg" / "folio" / "models"


def test_an_entry_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.outcome"
    assert write_cache_entry(path, ENTRY)
    found = read_cache_entry(path)
    assert (found.about, found.parts) == (ENTRY.about, ENTRY.parts)
    assert list(path.parent.iterdir()) == [path]
    head, _, body = path.read_bytes().partition(b"\n")
    assert json.loads(head)["about"] == ENTRY.about  # it is JSON, whoever reads it
    assert body == b"\0\n{}log"


def test_every_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "a.outcome"
    write_cache_entry(path, ENTRY)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert read_cache_entry(path) is None, position
    path.write_bytes(whole)
    assert read_cache_entry(path) is not None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"[]", b"[" * 100_000, b"{}", b'{"about": 1, "parts": 2}', b"\xff"]
)
def test_another_file_is_none(tmp_path, content):
    (tmp_path / "a.outcome").write_bytes(content)
    assert read_cache_entry(tmp_path / "a.outcome") is None


def test_a_truncated_entry_is_none_and_can_be_replaced(tmp_path):
    path = tmp_path / "a.outcome"
    write_cache_entry(path, ENTRY)
    path.write_bytes(path.read_bytes()[:-1])
    assert read_cache_entry(path) is None
    assert write_cache_entry(path, ENTRY)
    assert read_cache_entry(path).parts == ENTRY.parts


def test_a_renamed_entry_is_none(tmp_path):
    write_cache_entry(tmp_path / "a.outcome", ENTRY)
    (tmp_path / "a.outcome").rename(tmp_path / "b.outcome")
    assert read_cache_entry(tmp_path / "b.outcome") is None


def test_a_folder_that_cannot_be_written_raises_no_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert not write_cache_entry(tmp_path / "file" / "a.outcome", ENTRY)
    assert read_cache_entry(tmp_path / "file" / "a.outcome") is None
    for folder in (tmp_path / "file", tmp_path / "nowhere"):
        trim_cache(folder, ending=".outcome", limit=0)
    assert (tmp_path / "file").read_text() == "mine"


def test_nan_is_not_written(tmp_path):
    assert not write_cache_entry(tmp_path / "a.outcome", CacheEntry(about={"score": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_entry_is_removed(tmp_path):
    for number in range(4):
        write_cache_entry(tmp_path / f"{number}.outcome", CacheEntry(about={}, parts={"head": bytes(10_000)}))
        os.utime(tmp_path / f"{number}.outcome", (number, number))
    assert read_cache_entry(tmp_path / "0.outcome") is not None  # used again
    trim_cache(tmp_path, ending=".outcome", limit=25_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.outcome", "3.outcome"]


def test_trimming_removes_our_files_and_unfinished_ones_only(tmp_path):
    write_cache_entry(tmp_path / "a.outcome", ENTRY)
    for name in (".unfinished-old", ".unfinished-new", "mine.txt"):
        (tmp_path / name).write_text("x")
    long_ago = time.time() - 7200
    for name in (".unfinished-old", "mine.txt"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    trim_cache(tmp_path, ending=".outcome", limit=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-new", "mine.txt"]


def test_concurrent_writes_and_reads(tmp_path):
    path, found = tmp_path / "a.outcome", []

    def work(number):
        for _ in range(30):
            write_cache_entry(
                path, CacheEntry(about={"number": number}, parts={"head": bytes([number]) * 5000})
            )
            kept = read_cache_entry(path)
            found.append(kept is not None and set(kept.parts["head"]) == {kept.about["number"]})
            trim_cache(tmp_path, ending=".outcome", limit=100_000)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 120
