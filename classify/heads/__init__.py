"""Heads by name: what each is, what is searched for it, and how to make one. Importing this is cheap."""

from classify.heads.parameters import all_params, make_head, settle_params, size_params
from classify.heads.registry import (
    EXACT_ROWS,
    HEADS,
    SCALINGS,
    Head,
    get_head,
    grid_points,
)
from classify.heads.scoring import balanced_accuracy, grid_scores

__all__ = [
    "EXACT_ROWS",
    "HEADS",
    "SCALINGS",
    "Head",
    "all_params",
    "balanced_accuracy",
    "get_head",
    "grid_points",
    "grid_scores",
    "make_head",
    "settle_params",
    "size_params",
]
