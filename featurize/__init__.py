"""Frozen CNN backbones run once over a folder of images; features kept in one HDF5 store.

>>> import featurize
>>> results = featurize.extract("task_2", backbones=["efficientnet_lite0"], views=4)  # doctest: +SKIP
>>> with featurize.open_store(results[0].path) as store:  # doctest: +SKIP
...     X = store.plain()

Names are imported on first use, so that ``import featurize`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurize._version import __version__ as __version__
    from featurize.backbones.registry import BACKBONES as BACKBONES
    from featurize.errors import (
        ClusterError as ClusterError,
        ConfigError as ConfigError,
        DatasetError as DatasetError,
        EngineError as EngineError,
        FolioError as FolioError,
        ImageError as ImageError,
        StoreError as StoreError,
        WeightsError as WeightsError,
    )
    from featurize.extraction.extract import extract as extract
    from featurize.extraction.repair import repair as repair
    from featurize.extraction.verify import verify as verify
    from featurize.images.scan import scan as scan
    from featurize.store.reader import Store as Store, open_store as open_store

_MODULES = {
    "extract": "extraction.extract",
    "scan": "images.scan",
    "verify": "extraction.verify",
    "repair": "extraction.repair",
    "open_store": "store.reader",
    "Store": "store.reader",
    "BACKBONES": "backbones.registry",
    "FolioError": "errors",
    "ClusterError": "errors",
    "ConfigError": "errors",
    "DatasetError": "errors",
    "EngineError": "errors",
    "ImageError": "errors",
    "StoreError": "errors",
    "WeightsError": "errors",
    "__version__": "_version",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'featurize' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"featurize.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
