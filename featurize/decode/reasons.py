"""Why a file gives no picture: the closed set of kinds, and what is told apart by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# Every reason is one of these kinds; ": " and a detail may follow.
SKIP_REASONS = (
    "unreadable",
    "not a regular file",
    "empty file",
    "not an image",
    "too many pixels",
    "truncated",
    "damaged",
    "changed while being read",
    "timed out",
    "decoder crashed",
)
# May be gone at the next run; a file skipped for another kind is known by its content from then on.
TRANSIENT = frozenset(
    {
        "unreadable",
        "not a regular file",
        "too many pixels",
        "changed while being read",
        "timed out",
        "decoder crashed",
    }
)
UNKNOWN = "unknown"  # no reason that this version gives


def kind_of(reason: str) -> str:
    """Return the kind of a skip reason: one of `SKIP_REASONS`, or `UNKNOWN`."""
    kind = reason.partition(":")[0]
    return kind if kind in SKIP_REASONS else UNKNOWN


def detail_of(reason: str) -> str:
    """Return what a skip reason says beyond its kind; "" when it says no more."""
    return reason.partition(":")[2].strip() if kind_of(reason) != UNKNOWN else reason


def is_transient(reason: str) -> bool:
    """Tell whether a skipped file may be readable at the next run."""
    return kind_of(reason) in TRANSIENT


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return how many reasons there are of each kind, the most frequent kind first."""
    return dict(Counter(map(kind_of, reasons)).most_common())
