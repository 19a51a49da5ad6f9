"""Cached thumbnails are read completely or not at all."""

import dataclasses
import json

import pytest

from classify.report import thumbnails
from classify.report.thumbnails import cache_path, load_thumbnails, save_thumbnails
from featurize.base.cache import CacheEntry, write_cache_entry

MADE = {"a" * 64: {160: b"large", 64: b""}, "b" * 64: {64: b"small\n\0"}, "c" * 64: {}}


def test_cached_thumbnails_are_read_again(tmp_path):
    path = tmp_path / "new" / "it.thumbnails"
    assert load_thumbnails(path) == {}
    save_thumbnails(path, MADE)
    assert load_thumbnails(path) == MADE
    save_thumbnails(path, {"d" * 64: {64: b"other"}})
    assert load_thumbnails(path) == {"d" * 64: {64: b"other"}}


def test_a_damaged_file_is_ignored(tmp_path):
    path = tmp_path / "it.thumbnails"
    save_thumbnails(path, MADE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert load_thumbnails(path) == {}
        path.write_bytes(whole[:place])
        assert load_thumbnails(path) == {}


@pytest.mark.parametrize("about", [{"a": 7}, {"a": {"wide": 5}}, {"a": {"64": "5"}}, ["a"]])
def test_a_file_of_another_version_is_ignored(tmp_path, about):
    path = tmp_path / "it.thumbnails"
    assert write_cache_entry(path, CacheEntry(about=about, parts={"pictures": b"12345"}))
    assert load_thumbnails(path) == {}
    assert write_cache_entry(path, CacheEntry(about={}, parts={"others": b""}))
    assert load_thumbnails(path) == {}


def test_more_than_the_limit_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "LIMIT", 1000)
    save_thumbnails(tmp_path / "it.thumbnails", {"a" * 64: {64: b"x" * 1001}})
    assert load_thumbnails(tmp_path / "it.thumbnails") == {}


def test_each_data_set_has_its_own_file(tmp_path, photo_shown):
    changes = [{}, {"dataset": "other"}, {"source": "/elsewhere"}, {"source": "\udcff"}]
    places = {cache_path(dataclasses.replace(photo_shown, **change), tmp_path) for change in changes}
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path}
    assert cache_path(dataclasses.replace(photo_shown, path=[]), tmp_path) in places
    assert json.dumps([place.name for place in places])  # plain letters, whatever the data set is called
