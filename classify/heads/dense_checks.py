"""What the dense head refuses before it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from classify.heads import SCALINGS
from classify.heads.base import FitError

OUTPUTS = ("nominal", "ordinal")


def check_parameters(params: Mapping[str, Any]) -> None:
    """Raise FitError if one of the dense head's parameters cannot be used."""
    positive = {name: params[name] for name in ("learning_rate", "epochs", "batch_size", "patience")}
    positive["units"] = min(params["units"], default=1)
    for name, value in positive.items():
        if not value > 0:
            raise FitError(f"{name} is {value}: expected a positive number.")
    if not 0 <= params["dropout"] < 1:
        raise FitError(f"dropout is {params['dropout']}: expected a share from 0 to below 1.")
    if not 0 < params["validation_fraction"] < 1:
        raise FitError(
            f"validation_fraction is {params['validation_fraction']}: expected a share between 0 and 1."
        )
    for name, known in (("scaling", SCALINGS), ("output", OUTPUTS)):
        if params[name] not in known:
            raise FitError(f"Unknown {name} {params[name]!r}: expected one of {', '.join(known)}.")


def check_validation(y_val: Any, *, n_rows: int, classes: np.ndarray) -> np.ndarray:
    """Return the classes of `n_rows` validation rows.

    Raises
    ------
    FitError
        If there are not as many, or one is not among the training classes.
    """
    if y_val is None or len(y_val) != n_rows:
        found = "no" if y_val is None else len(y_val)
        raise FitError(f"{found} labels for {n_rows} validation rows: expected y_val beside X_val.")
    strange = np.setdiff1d(y_val, classes)
    if len(strange):
        raise FitError(f"Validation class '{strange[0]}' is not among the training classes.")
    return np.asarray(y_val)
