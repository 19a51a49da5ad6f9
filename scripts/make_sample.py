"""Generate the sample portfolio: synthetic pages in three grades, in folders for `featurize extract`.

    python scripts/make_sample.py OUT [--seed N] [--images N]

The grades differ in how far a page departs from its grid, palette and type scale. They overlap, as real
grades do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sample_pages import Breaks, draw_page

MARKER = ".folio-sample.json"
NOTE = "Synthetic pages drawn by scripts/make_sample.py; no designer is behind them."

# Departure of a grade's pages from the rules: mean and standard deviation. Neighbouring grades overlap.
GRADES = {"award": (0.03, 0.04), "middle": (0.48, 0.05), "low": (0.95, 0.06)}
LARGE_SCALE = 4.7  # pixels per point: 2820 x 3986 pixels, 11.2 megapixels
ORIENTATION = 0x0112  # the EXIF tag
LARGE, SIDEWAYS, TRUNCATED = "large", "sideways", "truncated"


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file to write: path, key of its random generator, grade and defect."""

    path: Path
    key: str
    grade: str
    defect: str = ""


class SampleError(Exception):
    """The sample cannot be written to this folder."""


def make_sample(out: Path, *, seed: int = 0, images: int = 80, jobs: int | None = None) -> bool:
    """Write the sample portfolio to a folder; equal arguments and Pillow versions give equal bytes.

    Parameters
    ----------
    out : Path
        A folder that is missing, empty, or contains the same sample already.
    seed : int, default=0
        Other seeds give other pages.
    images : int, default=80
        Training pages per grade; there are three eighths as many test pages, and some ungraded ones.
    jobs : int, optional
        Processes; one per core by default.

    Returns
    -------
    bool
        True if the pages were written, False if the sample existed already.

    Raises
    ------
    SampleError
        If `out` contains something else.
    """
    if images < 1:
        raise SampleError(f"--images {images}: expected at least 1.")
    settings = {"note": NOTE, "seed": seed, "images": images}
    if not _must_write(out, settings):
        return False
    # Written to a temporary folder and renamed, so that the sample is always complete.
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    files = _list_files(partial, seed=seed, images=images)
    for folder in {file.path.parent for file in files}:
        folder.mkdir(parents=True)
    if (jobs or os.cpu_count() or 1) > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            list(pool.map(_write_page, files, chunksize=4))
    else:
        for file in files:
            _write_page(file)
    (partial / MARKER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return True


def _must_write(out: Path, settings: dict[str, object]) -> bool:
    """Return whether the sample must be written: False if it exists; raise if something else does."""
    if not out.exists():
        return True
    if not out.is_dir():
        raise SampleError(f"{out}: a file, not a folder. Give another folder.")
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        if any(out.iterdir()):
            raise SampleError(
                f"{out}: contains files that this script did not write; nothing was changed. "
                "Give an empty or new folder."
            ) from None
        return True
    if found != settings:
        raise SampleError(
            f"{out}: contains a sample with seed {found.get('seed')} and {found.get('images')} images, "
            f"not seed {settings['seed']} and {settings['images']}. Remove it or give another folder."
        )
    return False


def _list_files(out: Path, *, seed: int, images: int) -> list[PageFile]:
    """Return the files of the sample, the slowest first."""
    files = [
        PageFile(
            path=out / split / f"{grade}_{split}" / f"page_{i:03d}.jpg",
            key=f"{split}/{grade}/{i}",
            grade=grade,
        )
        for split, count in (("train", images), ("test", max(1, round(images * 3 / 8))))
        for grade in GRADES
        for i in range(1, count + 1)
    ]
    mixed = random.Random(f"{seed}/new")
    for i in range(1, max(2, round(images * 0.15)) + 1):
        files.append(
            PageFile(path=out / "new" / f"page_{i:03d}.jpg", key=f"new/{i}", grade=mixed.choice(list(GRADES)))
        )
    for split, grade, name, defect in (
        ("train", "award", "scan_a2.jpg", LARGE),
        ("train", "low", "scan_a2.jpg", LARGE),
        ("test", "middle", "scan_a2.jpg", LARGE),
        ("train", "middle", "phone_photo.jpg", SIDEWAYS),
        ("train", "low", "broken_upload.jpg", TRUNCATED),
    ):
        key, path = f"{split}/{grade}/{name}", out / split / f"{grade}_{split}" / name
        files.append(PageFile(path=path, key=key, grade=grade, defect=defect))
    files = [PageFile(path=f.path, key=f"{seed}/{f.key}", grade=f.grade, defect=f.defect) for f in files]
    return sorted(files, key=lambda file: file.defect != LARGE)


def _write_page(file: PageFile) -> None:
    """Draw and write one page."""
    rng = random.Random(file.key)
    breaks = breaks_of(rng, file.grade)
    if file.defect == LARGE:
        page = draw_page(rng, breaks, scale=LARGE_SCALE)
    else:
        page = draw_page(rng, breaks, scale=2.0).reduce(
            2
        )  # drawn at twice the size and reduced, for smooth edges
    exif = Image.Exif()
    if file.defect == SIDEWAYS:
        page = page.transpose(Image.Transpose.ROTATE_90)  # as stored by a camera held upright
        exif[ORIENTATION] = 6
    page.save(file.path, quality=88, exif=exif)
    if file.defect == TRUNCATED:
        data = file.path.read_bytes()
        file.path.write_bytes(data[: len(data) // 3])


def breaks_of(rng: random.Random, grade: str) -> Breaks:
    """Draw the departures of one page of a grade from the rules."""
    level = rng.gauss(*GRADES[grade])
    grid, palette, type_ = (min(1.0, max(0.0, rng.gauss(level, 0.06))) for _ in range(3))
    return Breaks(grid=grid, palette=palette, type=type_)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Generate the sample portfolio: synthetic pages in three grades."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other seeds give other pages (%(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=80, metavar="N", help="training pages per grade (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        drawn = make_sample(options.out, seed=options.seed, images=options.images)
    except (SampleError, OSError) as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: the sample portfolio (synthetic pages), {'drawn' if drawn else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
