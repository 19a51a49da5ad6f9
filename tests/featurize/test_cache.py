"""Where caches lie."""

import sys
from pathlib import Path

import pytest

from featurize.cache import cache_folder


def test_the_environment_names_another_place(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path / "mine"))
    assert cache_folder("models") == tmp_path / "mine" / "models"
    assert not (tmp_path / "mine").exists()


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("FOLIO_CACHE", "~/caches")
    assert cache_folder("tuning") == Path.home() / "caches" / "tuning"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the XDG rules are Linux' own")
@pytest.mark.parametrize("value", [None, ""])
def test_by_default_where_the_system_keeps_caches(monkeypatch, tmp_path, value):
    """The XDG base directory specification: $XDG_CACHE_HOME, else ~/.cache."""
    monkeypatch.delenv("FOLIO_CACHE")
    if value is not None:
        monkeypatch.setenv("FOLIO_CACHE", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("models") == tmp_path / ".cache" / "folio" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("models") == tmp_path / "xdg" / "folio" / "models"
