"""The images of a run as far as they can be shown: pictures, map, nearest images, doubtful grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the page shows of images; rows of `path`, `split`, `y` and `picture` are images."""

    path: Sequence[str] = ()
    split: Sequence[str] = ()
    y: Sequence[int] = ()
    picture: Sequence[int] = ()  # index into `pictures`, -1 for none
    pictures: Sequence[str] = ()  # data: addresses
    units: Sequence[int]  # which of the tested entries are shown
    tested: Sequence[Sequence[int]]  # one a shown entry: its images
    split_of_tested: Sequence[str]
    maps: Mapping[str, Any] = field(default_factory=dict)  # store → image, x, y, method
    nearest: Mapping[str, Any] = field(
        default_factory=dict
    )  # store → of each shown entry image, similarity, …
    doubtful: Sequence[Mapping[str, Any]] = ()
    why_no_map: str = ""
    notes: tuple[str, ...] = ()  # what could not be shown, and why

    def without_unused(self) -> Seen:
        """Return the same without the images that nothing refers to; the others are numbered anew."""
        used = {
            *(image for unit in self.tested for image in unit),
            *(image for place in self.maps.values() for image in place["image"]),
            *(int(image) for found in self.nearest.values() for pairs in found for image in pairs[::2]),
            *(image for one in self.doubtful for image in one["images"]),
            *(int(image) for one in self.doubtful for image in one["near"][::2]),
        }
        kept = sorted(used)
        number = {image: k for k, image in enumerate(kept)}

        def pairs_anew(pairs: Sequence[float]) -> list[float]:
            return [number[int(value)] if k % 2 == 0 else value for k, value in enumerate(pairs)]

        return replace(
            self,
            path=[self.path[image] for image in kept],
            split=[self.split[image] for image in kept],
            y=[self.y[image] for image in kept],
            picture=[self.picture[image] for image in kept],
            tested=[[number[image] for image in unit] for unit in self.tested],
            maps={
                name: {**place, "image": [number[image] for image in place["image"]]}
                for name, place in self.maps.items()
            },
            nearest={name: [pairs_anew(pairs) for pairs in found] for name, found in self.nearest.items()},
            doubtful=[
                {
                    **one,
                    "images": [number[image] for image in one["images"]],
                    "near": pairs_anew(one["near"]),
                }
                for one in self.doubtful
            ],
        )
