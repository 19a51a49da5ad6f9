"""The images of a run as far as they can be shown: pictures, map, nearest images, doubtful grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the page shows of images; rows of `path`, `split`, `y` and `picture` are images."""

    path: Sequence[str] = ()
    split: Sequence[str] = ()
    y: Sequence[int] = ()
    picture: Sequence[int] = ()  # index into `pictures`, -1 for none
    pictures: Sequence[str] = ()  # data: addresses
    tested: Sequence[Sequence[int]]  # one a tested entry: its images
    split_of_tested: Sequence[str]
    maps: dict[str, Any] = field(default_factory=dict)  # store → image, x, y, method
    nearest: dict[str, Any] = field(default_factory=dict)  # store → of each tested entry image, similarity, …
    doubtful: Sequence[dict[str, Any]] = ()
    why_no_map: str = ""
    notes: tuple[str, ...] = ()  # what could not be shown, and why
