"""What a run brought a store, and by what."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from featurize.making.columns import Columns
from featurize.making.planning import Target
from featurize.store import ImageTable

PACKAGES = ("tensorflow", "openvino", "keras", "numpy", "pillow", "opencv-python-headless", "h5py")


@dataclass(kw_only=True)
class Outcome:
    """What a run brought one store; seconds as in `featurize.extraction.ExtractResult`."""

    target: Target
    state: str  # "made", "updated" or "up to date"
    images: ImageTable
    columns: Columns
    n_content: int
    n_decoded: int = 0
    n_forward: int = 0
    n_resumed: int = 0
    n_bytes: int = 0
    engine: str = ""
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)  # Dask's, as in the same place


def up_to_date(target: Target, images: ImageTable, *, n_decoded: int = 0) -> Outcome:
    """Return the outcome of a run that had nothing to do for this store."""
    assert target.store is not None
    return Outcome(
        target=target,
        state="up to date",
        images=images,
        columns=Columns.of(target.store),
        n_content=len(set(images.content.tolist()) - {-1}),
        n_decoded=n_decoded,
        n_bytes=target.path.stat().st_size,
        seconds={"network": 0.0, "writing": 0.0},
    )


def packages() -> dict[str, str]:
    """Return the versions of what makes features, as far as it is installed under these names."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
