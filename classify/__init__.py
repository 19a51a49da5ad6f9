"""Heads fitted on cached features, compared without leaks, and used to grade new images.

>>> import classify
>>> run = classify.compare("artifacts/features/task_2/efficientnet_lite0.h5")  # doctest: +SKIP
>>> grades = classify.predict(run.folder, "new_pictures")  # doctest: +SKIP

Names are imported on first use, so that ``import classify`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.deploy.export.export import export as export
    from classify.deploy.predict import predict as predict
    from classify.errors import (
        BundleError as BundleError,
        CompareError as CompareError,
        ExportError as ExportError,
    )
    from classify.heads.registry import HEADS as HEADS
    from classify.io.bundle import load_bundle as load_bundle
    from classify.jobs.compare import compare as compare
    from classify.jobs.fit import fit as fit

_MODULES = {
    "compare": "jobs.compare",
    "fit": "jobs.fit",
    "predict": "deploy.predict",
    "load_bundle": "io.bundle",
    "export": "deploy.export.export",
    "HEADS": "heads.registry",
    "BundleError": "errors",
    "CompareError": "errors",
    "ExportError": "errors",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'classify' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"classify.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
