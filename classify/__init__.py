"""Classifier heads on stored image features: compared without leaks, then used to grade new images.

Example::

    run = classify.compare("artifacts/features/task_2/efficientnet_lite0.h5")
    result = classify.predict(run.folder, "new_images")

Functions and data:

    compare       tune, fit and test heads on one or several stores
    fit           fit one head on one store and write it as a bundle
    predict       predict the grades of new images
    load_bundle   load a fitted head with its classes and its config
    export        write a bundle as one network for Keras, TensorFlow, ONNX or OpenVINO
    serve         serve a bundle as a local web page and a JSON endpoint
    HEADS         the available heads by name

Errors, each with a message that names the next step:

    FolioError    base class of all errors of featurize and classify
    BundleError   a bundle cannot be loaded or does not fit the features
    CompareError  stores, heads or folds cannot be compared
    ExportError   a bundle cannot be exported

Each name is imported on first use, so ``import classify`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurize.base import lazy_names

if TYPE_CHECKING:
    from classify.deploy.export.export import export as export
    from classify.deploy.predict import predict as predict
    from classify.deploy.serve.server import serve as serve
    from classify.errors import (
        BundleError as BundleError,
        CompareError as CompareError,
        ExportError as ExportError,
    )
    from classify.heads.registry import HEADS as HEADS
    from classify.io.bundle import load_bundle as load_bundle
    from classify.jobs.compare import compare as compare
    from classify.jobs.fit import fit as fit
    from featurize.errors import FolioError as FolioError

_MODULES = {
    "compare": "classify.jobs.compare",
    "fit": "classify.jobs.fit",
    "predict": "classify.deploy.predict",
    "load_bundle": "classify.io.bundle",
    "export": "classify.deploy.export.export",
    "serve": "classify.deploy.serve.server",
    "HEADS": "classify.heads.registry",
    "FolioError": "featurize.errors",
    "BundleError": "classify.errors",
    "CompareError": "classify.errors",
    "ExportError": "classify.errors",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
