"""Where a user's caches lie: things that can be made again, and are only slower to have without."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "FOLIO_CACHE"  # environment: a folder that stands in for the system's own


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of cache; it need not exist.

    Parameters
    ----------
    kind : str
        "models" or "tuning": the folder's name.

    Returns
    -------
    Path
        In the folder that the environment variable FOLIO_CACHE names, else where the system keeps a user's
        caches: ``~/.cache/folio`` on Linux, ``~/Library/Caches/folio`` on macOS.
    """
    base = os.environ.get(CACHE)
    if base:
        return Path(base).expanduser() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir("folio", appauthor=False)) / kind
