"""Image features from frozen CNN backbones, computed once and kept in HDF5 stores.

Example::

    results = featurize.extract("task_2", backbones=["efficientnet_lite0"], views=4)
    with featurize.open_store(results[0].path) as store:
        X = store.plain()

Functions and data:

    extract       compute the features of every image of a data set, one store per backbone
    scan          check a data set before extraction: duplicates, unreadable files, counts
    verify        check a store: structure, checksums, image files, a sample of the features
    repair        verify a store and recompute the rows that are wrong
    open_store    open a store for reading; returns a Store
    Store         an open store: features, images, classes, config
    BACKBONES     the available backbones by name
    __version__   the version of Folio

Errors, each with a message that names the next step:

    FolioError    base class of all errors of featurize and classify
    ClusterError  a Dask cluster cannot be used
    ConfigError   an option or a combination of options is invalid
    DatasetError  a folder is not a data set
    EngineError   a device or an inference engine cannot be used
    ImageError    an image file cannot be used
    StoreError    a file is not a usable store
    WeightsError  weights are missing, damaged or made for another network

Each name is imported on first use, so ``import featurize`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurize.base import lazy_names

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
    "extract": "featurize.extraction.extract",
    "scan": "featurize.images.scan",
    "verify": "featurize.extraction.verify",
    "repair": "featurize.extraction.repair",
    "open_store": "featurize.store.reader",
    "Store": "featurize.store.reader",
    "BACKBONES": "featurize.backbones.registry",
    "FolioError": "featurize.errors",
    "ClusterError": "featurize.errors",
    "ConfigError": "featurize.errors",
    "DatasetError": "featurize.errors",
    "EngineError": "featurize.errors",
    "ImageError": "featurize.errors",
    "StoreError": "featurize.errors",
    "WeightsError": "featurize.errors",
    "__version__": "featurize._version",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
