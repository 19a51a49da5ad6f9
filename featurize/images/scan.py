"""Public function `scan`: facts about a folder of images, and findings, before extraction."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from featurize.base.text import split_names
from featurize.images.augment import ViewRanges
from featurize.images.dataset import Dataset, ImageFile, load_dataset
from featurize.images.duplicates import Duplicates, DuplicateSet, find_duplicates
from featurize.images.folders import SPLITS
from featurize.images.pool import DecodeRequest, DecodeResult, decode_all
from featurize.images.render import RenderSettings
from featurize.images.scan_findings import KINDS, LEVELS

NETWORK_SIZE = 224  # pixels; input size of most backbones, at which hashes are computed as in extraction
_MAX_PIXELS = 200_000_000  # as in extraction

OnProgress = Callable[[str, int, int], None]
Counts = Mapping[str, Mapping[str, int]]  # split → class ("" if ungraded) → number


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """Minimum, median and maximum of lengths in pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """Facts about a data set, and findings. Paths are relative to its root and sorted by their bytes."""

    root: str
    name: str
    classes: tuple[str, ...]  # in label order
    ordered: bool
    has_split: bool
    suggested_order: tuple[str, ...] | None
    n_files: int  # files in class folders or ungraded, readable or not
    n_readable: int
    files: Counts
    readable: Counts  # also contains classes without readable files, with 0
    entries: Counts  # entries with at least one readable image
    groups: Mapping[str, int]  # class → number of groups to fit on, which folds do not separate
    short_side: LengthSummary | None  # None if no image is readable
    long_side: LengthSummary | None
    network_size: int
    n_small: int  # images whose short side is below `network_size`
    formats: Mapping[str, int]  # format of the content → number, most frequent first
    modes: Mapping[str, int]  # Pillow's mode → number, most frequent first
    skipped: tuple[tuple[str, str], ...]  # path, reason
    rotated: tuple[str, ...]  # images that are stored rotated or mirrored, according to EXIF
    misnamed: tuple[tuple[str, str], ...]  # path with the suffix of another format, the actual format
    deep: tuple[tuple[str, str], ...]  # path, mode: CMYK, Lab, 16 or 32 bits; converted to 8-bit RGB
    copies: tuple[DuplicateSet, ...]  # files with the same content
    near_duplicates: tuple[DuplicateSet, ...]  # different files that show the same image
    outside: tuple[str, ...]  # unused files, which are in no class folder
    ignored: int  # number of hidden and system names, such as Thumbs.db
    findings: tuple[Finding, ...] = ()  # errors first, then warnings, then notes

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; without one, all graded images are cross-validated."""
        return sum(self.readable.get("test", {}).values()) > 0

    @property
    def needs_person(self) -> bool:
        """Whether any finding is an error or a warning."""
        return any(finding.level != "note" for finding in self.findings)


def scan(
    root: str | os.PathLike[str],
    *,
    order: str | Sequence[str] | None = None,
    entries: str = "folder",
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> ScanReport:
    """Check every file of a data set: hash and decode it, and compare it with all others.

    Files are decoded as in extraction, in processes with a deadline and a memory limit, so the same files are
    skipped. Each content is decoded once, JPEGs at a reduced scale. Nothing is written.

    Parameters
    ----------
    root : path-like
        The data set, in a layout as for extraction.
    order : str or sequence of str, optional
        All classes from lowest to highest. A ``str`` is split at commas, as on the command line.
    entries : {"folder", "image"}, default="folder"
        "folder": each first folder below a class folder is one entry; "image": each image is.
    workers : int, optional
        Number of decode processes; by default one per core.
    on_progress : callable, optional
        Called with (stage, done, total); the stages are "hashing" and "decoding".

    Returns
    -------
    ScanReport
        It does not depend on the order in which the file system lists names.

    Raises
    ------
    DatasetError
        If the folder is not a data set.
    ConfigError
        If `order` does not list exactly the classes, or `entries` is invalid.
    """
    progress = on_progress or (lambda stage, done, total: None)
    dataset = load_dataset(
        root,
        entries=entries,
        order=split_names(order) if order is not None else None,
        on_file=lambda done, total: progress("hashing", done, total),
    )
    contents = _decode_contents(dataset, workers=workers, progress=progress)
    readable = [image for image in dataset.images if image.sha256 in contents.decoded]
    duplicates = find_duplicates(readable, contents.decoded)
    report = _facts(dataset, contents, readable, duplicates)
    return replace(report, findings=list_findings(report))


@dataclass(frozen=True, kw_only=True)
class _Contents:
    decoded: dict[str, DecodeResult]  # SHA-256 → result without its views
    skipped: dict[str, str]  # SHA-256 → skip reason


def _decode_contents(dataset: Dataset, *, workers: int | None, progress: OnProgress) -> _Contents:
    """Decode each content once."""
    first: dict[str, str] = {}
    for image in dataset.images:
        if image.sha256:
            first.setdefault(image.sha256, image.path)
    rendering = RenderSettings(
        size=NETWORK_SIZE,
        resize="squash",
        resample="bicubic",
        max_pixels=_MAX_PIXELS,
        ranges=ViewRanges(),
        seed=0,
    )
    requests = [DecodeRequest(path=dataset.root / path, sha256=sha256) for sha256, path in first.items()]
    decoded, skipped = {}, {}
    results = decode_all(requests, rendering, workers=workers)
    for done, (sha256, result) in enumerate(zip(first, results, strict=True), start=1):
        if result.problem:
            skipped[sha256] = result.problem
        else:
            decoded[sha256] = replace(result, views=())  # the next results overwrite the views
        progress("decoding", done, len(requests))
    return _Contents(decoded=decoded, skipped=skipped)


def _facts(
    dataset: Dataset, contents: _Contents, readable: list[ImageFile], duplicates: Duplicates
) -> ScanReport:
    results = [(image.path, contents.decoded[image.sha256]) for image in readable]
    short = [min(result.width, result.height) for _, result in results]
    return ScanReport(
        root=str(dataset.root),
        name=dataset.name,
        classes=dataset.classes,
        ordered=dataset.ordered,
        has_split=dataset.has_split,
        suggested_order=dataset.suggested_order,
        n_files=len(dataset.images),
        n_readable=len(readable),
        files=_counts(dataset, ((image, image.path) for image in dataset.images)),
        readable=_counts(dataset, ((image, image.path) for image in readable)),
        entries=_counts(dataset, ((image, image.entry) for image in readable)),
        groups={name: duplicates.groups.get(name, 0) for name in dataset.classes},
        short_side=_summarize(short),
        long_side=_summarize([max(result.width, result.height) for _, result in results]),
        network_size=NETWORK_SIZE,
        n_small=sum(side < NETWORK_SIZE for side in short),
        formats=_by_frequency(result.format for _, result in results),
        modes=_by_frequency(result.mode for _, result in results),
        skipped=tuple(
            (image.path, image.problem or contents.skipped[image.sha256])
            for image in dataset.images
            if image.sha256 not in contents.decoded
        ),
        rotated=tuple(path for path, result in results if result.orientation != 1),
        misnamed=_misnamed((path, result.format) for path, result in results),
        deep=tuple((path, result.mode) for path, result in results if _is_deep(result.mode)),
        copies=duplicates.copies,
        near_duplicates=duplicates.near,
        outside=dataset.outside,
        ignored=dataset.ignored,
    )


def _counts(dataset: Dataset, values: Iterable[tuple[ImageFile, str]]) -> dict[str, dict[str, int]]:
    """Count distinct values by split and class, classes in label order, "" for ungraded images."""
    found: dict[tuple[str, str], set[str]] = {}
    for image, value in values:
        found.setdefault((image.split, image.class_name), set()).add(value)
    present = {image.split for image in dataset.images}
    return {
        split: {
            name: len(found.get((split, name), ())) for name in (dataset.classes if split != "new" else ("",))
        }
        for split in SPLITS
        if split in present
    }


def _summarize(lengths: Sequence[int]) -> LengthSummary | None:
    if not lengths:
        return None
    return LengthSummary(min=min(lengths), median=float(np.median(lengths)), max=max(lengths))


def _by_frequency(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _is_deep(mode: str) -> bool:
    return mode in {"CMYK", "LAB", "HSV", "I", "F"} or mode.startswith("I;")


def _misnamed(formats: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    from PIL import Image

    format_of_suffix = Image.registered_extensions()  # ".jpg" → "JPEG"
    variants = {"MPO": "JPEG"}  # cameras write MPO files with the suffix .jpg

    def differs(path: str, found: str) -> bool:
        suffix = PurePosixPath(path).suffix.lower()
        return format_of_suffix.get(suffix, found) not in {found, variants.get(found)}

    return tuple((path, found) for path, found in formats if differs(path, found))


MANY_FOLDS = 5  # number of groups per class that allows the usual number of folds
IMBALANCE = 3.0  # ratio of the largest to the smallest class that is a note
STRONG_IMBALANCE = 10.0  # ratio that is a warning

Case = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of a scan."""

    kind: str  # identifier for programs; it does not change between versions
    level: str  # one of LEVELS
    text: str  # one line: what was found
    advice: str  # one line: meaning and next step
    cases: tuple[Case, ...] = ()  # paths that belong together, or a path and a remark
    sign: str = ":"  # between the parts of a case; see `FindingKind`


def list_findings(report: ScanReport) -> tuple[Finding, ...]:
    """Return the findings, errors first, then warnings, then notes.

    Parameters
    ----------
    report : ScanReport
        The facts; its findings are ignored.
    """
    steps: tuple[Callable[[ScanReport], Iterator[Finding]], ...] = (
        _duplicate_findings,
        _file_findings,
        _class_findings,
    )
    found = [finding for step in steps for finding in step(report)]
    levels, kinds = list(LEVELS), list(KINDS)
    last = len(kinds)
    return tuple(
        sorted(
            found,
            key=lambda f: (levels.index(f.level), kinds.index(f.kind) if f.kind in KINDS else last),
        )
    )


def _duplicate_findings(report: ScanReport) -> Iterator[Finding]:
    """Yield findings about duplicates; a set under two grades and in two splits is in two findings."""
    cases: dict[str, list[Case]] = {}
    for images in report.copies:
        for kind in _kinds_of_copies(images, report):
            cases.setdefault(kind, []).append(images.paths)
    for images in report.near_duplicates:
        for kind in _kinds_of_near_duplicates(images, report):
            cases.setdefault(kind, []).append(images.paths)
    for kind, found in cases.items():
        yield _finding(kind, found)


def _kinds_of_copies(images: DuplicateSet, report: ScanReport) -> list[str]:
    if errors := _error_kinds("same file", images, report):
        return errors
    if "new" in images.splits:
        return ["ungraded copies"]
    return ["copies in test"] if images.splits == {"test"} else ["copies"]


def _kinds_of_near_duplicates(images: DuplicateSet, report: ScanReport) -> list[str]:
    if errors := _error_kinds("near duplicates", images, report):
        return errors
    return ["ungraded near duplicates"] if "new" in images.splits else ["near duplicates"]


def _error_kinds(what: str, images: DuplicateSet, report: ScanReport) -> list[str]:
    # A comparison keeps the splits apart only if there is a test split.
    leaks = report.has_test and len(images.splits - {"new"}) > 1
    return [
        *([f"{what} under two grades"] if len(images.classes) > 1 else []),
        *([f"{what} in two splits"] if leaks else []),
    ]


def _file_findings(report: ScanReport) -> Iterator[Finding]:
    for kind, cases in (
        ("skipped", report.skipped),
        ("outside", [(path,) for path in report.outside]),
        ("rotated", [(path,) for path in report.rotated]),
        ("misnamed", report.misnamed),
        ("colour", report.deep),
    ):
        if cases:
            yield _finding(kind, cases)
    if not report.n_readable:
        yield _finding("no picture", (), count=report.n_files)
    if report.n_small:
        yield _finding("small pictures", (), count=report.n_small)


def _finding(kind: str, cases: Sequence[Case], *, count: int | None = None) -> Finding:
    texts = KINDS[kind]
    n = len(cases) if count is None else count
    text = f"{n} {texts.one if n == 1 else texts.many}"
    return Finding(
        kind=kind, level=texts.level, text=text, advice=texts.advice, cases=tuple(cases), sign=texts.sign
    )


def _class_findings(report: ScanReport) -> Iterator[Finding]:
    if len(report.classes) == 1:
        yield Finding(
            kind="one class",
            level="error",
            text=f"there is only one class, {report.classes[0]!r}",
            advice="A comparison needs at least two classes. Add images of another class.",
        )
    yield from _group_findings(report)
    yield from _balance_findings(report)
    for split in ("val", "test"):
        counts = report.readable.get(split, {})
        if missing := [name for name in report.classes if split in report.files and not counts.get(name)]:
            yield Finding(
                kind=f"class missing from {split}",
                level="warning",
                text=f"no readable {split} image of {', '.join(map(repr, missing))}",
                advice="Some metrics will be undefined or less informative.",
            )
    if report.suggested_order:
        order = shlex.quote(",".join(report.suggested_order))
        yield Finding(
            kind="order",
            level="note",
            text="the classes look like grades, but no order was given",
            advice=f"To treat them as ordered, add: --order {order}",
        )


def _group_findings(report: ScanReport) -> Iterator[Finding]:
    """Yield findings about classes with too few groups for folds."""
    needed = 2 if report.has_test else 3
    too_few = {name: n for name, n in report.groups.items() if n < needed}
    few = {name: n for name, n in report.groups.items() if needed <= n < MANY_FOLDS}
    if too_few:
        yield Finding(
            kind="class too small",
            level="error",
            text=f"too few groups of images to fit on; {needed} per class are needed: {_each(too_few)}",
            advice="An entry or a set of (near) duplicates counts as one group. Add images.",
        )
    if few:
        yield Finding(
            kind="small class",
            level="warning",
            text=f"few groups of images to fit on: {_each(few)}",
            advice=f"Fewer than {MANY_FOLDS} give fewer folds and less certain metrics. Add images.",
        )


def _balance_findings(report: ScanReport) -> Iterator[Finding]:
    train = {name: n for name, n in report.readable.get("train", {}).items() if n}
    if len(train) < 2:
        return
    most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    ratio = train[most] / train[least]
    if ratio >= IMBALANCE:
        yield Finding(
            kind="imbalance",
            level="warning" if ratio >= STRONG_IMBALANCE else "note",
            text=f"{most!r} has {ratio:.1f} times as many training images as {least!r} "
            f"({train[most]} and {train[least]})",
            advice="Accuracy alone is misleading: also use balanced accuracy and macro F1.",
        )


def _each(groups: dict[str, int]) -> str:
    return ", ".join(f"{name!r} has {n}" for name, n in groups.items())
