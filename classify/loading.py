"""Stores of one data set, as the samples that a job works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurize import CompareError

if TYPE_CHECKING:
    from classify.samples import Samples


def load_same_dataset(
    paths: Sequence[Path],
    *,
    order: Sequence[str] | None,
    join: str = "probabilities",
    fuse: bool = False,
    memory: str | None = None,
    heads: Sequence[str] | None = None,
    jobs: int | None = None,
    seed: int = 0,
) -> list[Samples]:
    """Load stores of one data set; images grouped in any of them are grouped in all; a fused one comes last.

    Features that do not fit in `memory` beside what `heads` need, in so many processes, stay on disk.

    Raises
    ------
    CompareError
        If they are of different data sets, or two have one name, or one alone is to be fused.
    """
    from classify.alike import check_same_images, join_groups
    from classify.fusion import fuse as fused
    from classify.memory_limit import cores, settle_memory
    from classify.portfolios import settle_join
    from classify.samples import load_samples

    if not paths:
        raise CompareError("no store to compare. Make one with: featurize extract DATA")
    for path in paths:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.h5"))
            shown = ", ".join(inside[:10]) + (f" and {len(inside) - 10} more" if len(inside) > 10 else "")
            what = f"stores in it: {shown}. Name one or more of them" if inside else "no .h5 file in it"
            raise CompareError(f"{path}: a folder, where a store is expected; {what}")
    working = settle_memory(paths, memory=memory, heads=heads, jobs=jobs, join=join, fuse=fuse)
    check_same_images(paths)
    samples = [load_samples(path, order=order, working_bytes=working) for path in paths]
    for other, path in zip(samples[1:], paths[1:], strict=True):
        if other.classes != samples[0].classes:
            raise CompareError(
                f"{path}: its classes are {', '.join(other.classes)}, but those of {paths[0]} are "
                f"{', '.join(samples[0].classes)}. Give one order for "
                f"both: --order {','.join(samples[0].classes)}"
            )
    samples = join_groups(samples)
    if working is not None and memory is not None:
        from classify.streaming import with_samples

        samples = with_samples(samples, memory=memory, jobs=jobs or cores(), seed=seed)
    if fuse:
        samples.append(fused(samples))
    return [settle_join(one, join) for one in samples]


def refuse_stored(samples: Samples, memory: str | None, asked: Mapping[str, bool]) -> None:
    """Raise where features stay on disk and an option that is set needs them in memory.

    Raises
    ------
    CompareError
        For the first of them.
    """
    for option in (name for name, is_set in asked.items() if is_set and samples.stored is not None):
        raise CompareError(
            f"{option} needs features in memory, and these do not fit in --memory {memory}. Leave {option} "
            "out, or raise --memory"
        )
