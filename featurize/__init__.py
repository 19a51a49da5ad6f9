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

__version__ = "0.1.0"

_EXPORTS = {
    "Backbone": "backbones",
    "BACKBONES": "backbones",
    "get_backbone": "backbones",
    "cache_folder": "cache",
    "keep": "cache",
    "Kept": "cache",
    "load_kept": "cache",
    "make_room": "cache",
    "check_dask": "cluster",
    "Cluster": "cluster",
    "connect_cluster": "cluster",
    "Fault": "upkeep.checking",
    "extract_words": "upkeep.commands",
    "config_digest": "config",
    "find_images": "dataset",
    "available_cores": "decode.cores",
    "use_device": "device",
    "join": "intake.duplicates",
    "near_duplicates": "intake.duplicates",
    "gpus": "engines.cuda",
    "import_openvino": "engines.conversion",
    "parse_device": "engines.devices",
    "BundleError": "errors",
    "ClusterError": "errors",
    "CompareError": "errors",
    "ConfigError": "errors",
    "DatasetError": "errors",
    "EngineError": "errors",
    "ExportError": "errors",
    "FolioError": "errors",
    "ImageError": "errors",
    "StoreError": "errors",
    "WeightsError": "errors",
    "extract": "extraction",
    "ExtractResult": "results",
    "FeatureReader": "inference",
    "image_features": "inference",
    "ImageFeatures": "inference",
    "inspect": "intake.intake",
    "Intake": "intake.intake",
    "Repair": "upkeep.repairing",
    "repair": "upkeep.repairing",
    "portable_network": "portable",
    "image_squares": "squares",
    "ImageSquares": "squares",
    "Brought": "spreading",
    "RefusedError": "spreading",
    "spread": "spreading",
    "Spreading": "spreading",
    "ContentRow": "store",
    "ContentTable": "store",
    "ImageTable": "store",
    "open_store": "store",
    "Store": "store",
    "StoredRows": "store_rows",
    "write_store": "store_writer",
    "CommaList": "terminal",
    "console": "terminal",
    "default_of": "terminal",
    "flatten": "terminal",
    "FolioGroup": "terminal",
    "human_bytes": "terminal",
    "orderly_stop": "terminal",
    "printable": "terminal",
    "progress_bar": "terminal",
    "quiet_libraries": "terminal",
    "Thumbnail": "thumbnailing",
    "thumbnails": "thumbnailing",
    "thumbnails_at": "thumbnailing",
    "Verification": "upkeep.verification",
    "verify": "upkeep.verification",
    "find_weights": "weights",
    "save_weights": "weights",
    "Weights": "weights",
}

__all__ = [*_EXPORTS, "__version__"]

if TYPE_CHECKING:
    from featurize.backbones import (
        BACKBONES as BACKBONES,
        Backbone as Backbone,
        get_backbone as get_backbone,
    )
    from featurize.cache import (
        Kept as Kept,
        cache_folder as cache_folder,
        keep as keep,
        load_kept as load_kept,
        make_room as make_room,
    )
    from featurize.cluster import (
        Cluster as Cluster,
        check_dask as check_dask,
        connect_cluster as connect_cluster,
    )
    from featurize.config import (
        config_digest as config_digest,
    )
    from featurize.dataset import (
        find_images as find_images,
    )
    from featurize.decode.cores import (
        available_cores as available_cores,
    )
    from featurize.device import (
        use_device as use_device,
    )
    from featurize.engines.conversion import (
        import_openvino as import_openvino,
    )
    from featurize.engines.cuda import (
        gpus as gpus,
    )
    from featurize.engines.devices import (
        parse_device as parse_device,
    )
    from featurize.errors import (
        BundleError as BundleError,
        ClusterError as ClusterError,
        CompareError as CompareError,
        ConfigError as ConfigError,
        DatasetError as DatasetError,
        EngineError as EngineError,
        ExportError as ExportError,
        FolioError as FolioError,
        ImageError as ImageError,
        StoreError as StoreError,
        WeightsError as WeightsError,
    )
    from featurize.extraction import (
        extract as extract,
    )
    from featurize.inference import (
        FeatureReader as FeatureReader,
        ImageFeatures as ImageFeatures,
        image_features as image_features,
    )
    from featurize.intake.duplicates import (
        join as join,
        near_duplicates as near_duplicates,
    )
    from featurize.intake.intake import (
        Intake as Intake,
        inspect as inspect,
    )
    from featurize.portable import (
        portable_network as portable_network,
    )
    from featurize.results import (
        ExtractResult as ExtractResult,
    )
    from featurize.spreading import (
        Brought as Brought,
        RefusedError as RefusedError,
        Spreading as Spreading,
        spread as spread,
    )
    from featurize.squares import (
        ImageSquares as ImageSquares,
        image_squares as image_squares,
    )
    from featurize.store import (
        ContentRow as ContentRow,
        ContentTable as ContentTable,
        ImageTable as ImageTable,
        Store as Store,
        open_store as open_store,
    )
    from featurize.store_rows import (
        StoredRows as StoredRows,
    )
    from featurize.store_writer import (
        write_store as write_store,
    )
    from featurize.terminal import (
        CommaList as CommaList,
        FolioGroup as FolioGroup,
        console as console,
        default_of as default_of,
        flatten as flatten,
        human_bytes as human_bytes,
        orderly_stop as orderly_stop,
        printable as printable,
        progress_bar as progress_bar,
        quiet_libraries as quiet_libraries,
    )
    from featurize.thumbnailing import (
        Thumbnail as Thumbnail,
        thumbnails as thumbnails,
        thumbnails_at as thumbnails_at,
    )
    from featurize.upkeep.checking import (
        Fault as Fault,
    )
    from featurize.upkeep.commands import (
        extract_words as extract_words,
    )
    from featurize.upkeep.repairing import (
        Repair as Repair,
        repair as repair,
    )
    from featurize.upkeep.verification import (
        Verification as Verification,
        verify as verify,
    )
    from featurize.weights import (
        Weights as Weights,
        find_weights as find_weights,
        save_weights as save_weights,
    )


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'featurize' has no attribute {name!r}")
    return getattr(importlib.import_module(f"featurize.{_EXPORTS[name]}"), name)
