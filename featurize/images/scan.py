"""What a folder of images holds and what is wrong with it, before any network sees it."""

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

NETWORK_SIZE = 224  # pixels; the input side of most backbones, and what hashes are taken at, as in extraction
_MAX_PIXELS = 200_000_000  # as in extraction

OnProgress = Callable[[str, int, int], None]
Counts = Mapping[str, Mapping[str, int]]  # split → class ("" when ungraded) → how many


@dataclass(frozen=True, kw_only=True)
class LengthSummary:
    """Smallest, middle and largest of some lengths, in pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """Facts about a data set. All paths are relative to its root and sorted by their bytes."""

    root: str
    name: str
    classes: tuple[str, ...]  # in label order
    ordered: bool
    has_split: bool
    suggested_order: tuple[str, ...] | None
    n_files: int  # in class folders or ungraded, readable or not
    n_readable: int
    files: Counts
    readable: Counts  # classes none of whose files can be read are there, with 0
    entries: Counts  # with at least one readable image
    groups: Mapping[str, int]  # class → groups to fit on: what folds can tell apart
    short_side: LengthSummary | None  # None: not one picture
    long_side: LengthSummary | None
    network_size: int
    n_small: int  # pictures whose short side is below `network_size`
    formats: Mapping[str, int]  # of the content, most frequent first
    modes: Mapping[str, int]  # Pillow's, most frequent first
    skipped: tuple[tuple[str, str], ...]  # path, reason
    rotated: tuple[str, ...]  # turned upright because their EXIF says so
    misnamed: tuple[tuple[str, str], ...]  # path whose suffix promises another format, the format it has
    deep: tuple[tuple[str, str], ...]  # path, mode: CMYK, Lab, 16 or 32 bits; brought to 8-bit RGB
    copies: tuple[DuplicateSet, ...]  # the same file in several places
    near_duplicates: tuple[DuplicateSet, ...]  # different files that show the same picture
    outside: tuple[str, ...]  # files in no class folder, not used
    ignored: int  # hidden names, Thumbs.db and the like
    findings: tuple[Finding, ...] = ()  # the worst first

    @property
    def has_test(self) -> bool:
        """Whether a test split decides in the end; without one, cross-validation over all graded images."""
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
    """Look at every file of a data set: hash it, decode it small, compare it with all others.

    Decoding is extraction's own, in processes with a deadline and a memory limit, so what is skipped here is
    what extraction would skip. Each content is decoded once; JPEGs only at the scale that is needed.

    Parameters
    ----------
    root : path-like
        The data set, laid out as for extraction.
    order : str or sequence of str, optional
        All classes, lowest first. A ``str`` is split at commas, as on the command line.
    entries : {"folder", "image"}, default="folder"
        Whether the first folder under a class is one entry, or each image is.
    workers : int, optional
        Decode processes; one a core by default.
    on_progress : callable, optional
        Called with a stage ("hashing", "decoding"), how many are done, how many there are.

    Returns
    -------
    ScanReport
        Nothing in it depends on the order in which the file system lists names.

    Raises
    ------
    DatasetError
        If the tree is no data set.
    ConfigError
        If `order` is not exactly the classes, or `entries` is unknown.
    """
    tell = on_progress or (lambda stage, done, total: None)
    dataset = load_dataset(
        root,
        entries=entries,
        order=split_names(order) if order is not None else None,
        on_file=lambda done, total: tell("hashing", done, total),
    )
    pictures = _look(dataset, workers=workers, tell=tell)
    readable = [image for image in dataset.images if image.sha256 in pictures.good]
    likeness = find_duplicates(readable, pictures.good)
    intake = _facts(dataset, pictures, readable, likeness)
    return replace(intake, findings=list_findings(intake))


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    good: dict[str, DecodeResult]  # content → what was seen of it, without its views
    bad: dict[str, str]  # content → why it will be skipped


def _look(dataset: Dataset, *, workers: int | None, tell: OnProgress) -> _Pictures:
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
    good, bad = {}, {}
    decoded_files = decode_all(requests, rendering, workers=workers)
    for done, (sha256, decoded) in enumerate(zip(first, decoded_files, strict=True), start=1):
        if decoded.problem:
            bad[sha256] = decoded.problem
        else:
            good[sha256] = replace(decoded, views=())  # which lie in memory that the next ones come into
        tell("decoding", done, len(requests))
    return _Pictures(good=good, bad=bad)


def _facts(
    dataset: Dataset, pictures: _Pictures, readable: list[ImageFile], likeness: Duplicates
) -> ScanReport:
    seen = [(image.path, pictures.good[image.sha256]) for image in readable]
    short = [min(picture.width, picture.height) for _, picture in seen]
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
        groups={name: likeness.groups.get(name, 0) for name in dataset.classes},
        short_side=_spread(short),
        long_side=_spread([max(picture.width, picture.height) for _, picture in seen]),
        network_size=NETWORK_SIZE,
        n_small=sum(side < NETWORK_SIZE for side in short),
        formats=_tally(picture.format for _, picture in seen),
        modes=_tally(picture.mode for _, picture in seen),
        skipped=tuple(
            (image.path, image.problem or pictures.bad[image.sha256])
            for image in dataset.images
            if image.sha256 not in pictures.good
        ),
        rotated=tuple(path for path, picture in seen if picture.orientation != 1),
        misnamed=_misnamed((path, picture.format) for path, picture in seen),
        deep=tuple((path, picture.mode) for path, picture in seen if _is_deep(picture.mode)),
        copies=likeness.copies,
        near_duplicates=likeness.near,
        outside=dataset.outside,
        ignored=dataset.ignored,
    )


def _counts(dataset: Dataset, things: Iterable[tuple[ImageFile, str]]) -> dict[str, dict[str, int]]:
    """Count distinct things by split and class, classes in label order; ungraded ones under ""."""
    found: dict[tuple[str, str], set[str]] = {}
    for image, thing in things:
        found.setdefault((image.split, image.class_name), set()).add(thing)
    present = {image.split for image in dataset.images}
    return {
        split: {
            name: len(found.get((split, name), ())) for name in (dataset.classes if split != "new" else ("",))
        }
        for split in SPLITS
        if split in present
    }


def _spread(lengths: Sequence[int]) -> LengthSummary | None:
    if not lengths:
        return None
    return LengthSummary(min=min(lengths), median=float(np.median(lengths)), max=max(lengths))


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _is_deep(mode: str) -> bool:
    return mode in {"CMYK", "LAB", "HSV", "I", "F"} or mode.startswith("I;")


def _misnamed(formats: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    from PIL import Image

    promised = Image.registered_extensions()  # ".jpg" → "JPEG"
    alike = {"MPO": "JPEG"}  # cameras write it under .jpg

    def differs(path: str, found: str) -> bool:
        suffix = PurePosixPath(path).suffix.lower()
        return promised.get(suffix, found) not in {found, alike.get(found)}

    return tuple((path, found) for path, found in formats if differs(path, found))


MANY_FOLDS = 5  # groups in each class that give the usual number of folds
IMBALANCE = 3.0  # the largest class has so many times the images of the smallest: a note
STRONG_IMBALANCE = 10.0  # a warning

Case = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found."""

    kind: str  # stable, for programs
    level: str  # one of LEVELS
    text: str  # one line
    advice: str  # one line: what it means and what to do
    cases: tuple[Case, ...] = ()  # paths that belong together; or a path and a remark
    sign: str = ":"  # what stands between the parts of a case, as in `FindingKind`


def list_findings(intake: ScanReport) -> tuple[Finding, ...]:
    """Return the findings, errors first, then warnings, then notes.

    Parameters
    ----------
    intake : ScanReport
        The facts; its own findings are not looked at.
    """
    steps: tuple[Callable[[ScanReport], Iterator[Finding]], ...] = (_alike, _files, _classes)
    found = [finding for step in steps for finding in step(intake)]
    levels, kinds = list(LEVELS), list(KINDS)
    last = len(kinds)
    return tuple(
        sorted(
            found,
            key=lambda f: (levels.index(f.level), kinds.index(f.kind) if f.kind in KINDS else last),
        )
    )


def _alike(intake: ScanReport) -> Iterator[Finding]:
    """Sort sets of like images; one that is under two grades and in two splits is told of twice."""
    cases: dict[str, list[Case]] = {}
    for alike in intake.copies:
        for kind in _kinds_of_copies(alike, intake):
            cases.setdefault(kind, []).append(alike.paths)
    for alike in intake.near_duplicates:
        for kind in _kinds_of_near_duplicates(alike, intake):
            cases.setdefault(kind, []).append(alike.paths)
    for kind, found in cases.items():
        yield _finding(kind, found)


def _kinds_of_copies(alike: DuplicateSet, intake: ScanReport) -> list[str]:
    if worst := [
        *(["same file under two grades"] if len(alike.classes) > 1 else []),
        *(["same file in two splits"] if _leaks(alike, intake) else []),
    ]:
        return worst
    if "new" in alike.splits:
        return ["ungraded copies"]
    return ["copies in test"] if alike.splits == {"test"} else ["copies"]


def _kinds_of_near_duplicates(alike: DuplicateSet, intake: ScanReport) -> list[str]:
    if worst := [
        *(["near duplicates under two grades"] if len(alike.classes) > 1 else []),
        *(["near duplicates in two splits"] if _leaks(alike, intake) else []),
    ]:
        return worst
    return ["ungraded near duplicates"] if "new" in alike.splits else ["near duplicates"]


def _leaks(alike: DuplicateSet, intake: ScanReport) -> bool:
    """Tell whether graded images stand in several splits that a comparison keeps apart."""
    return intake.has_test and len(alike.splits - {"new"}) > 1


def _files(intake: ScanReport) -> Iterator[Finding]:
    for kind, cases in (
        ("skipped", intake.skipped),
        ("outside", [(path,) for path in intake.outside]),
        ("rotated", [(path,) for path in intake.rotated]),
        ("misnamed", intake.misnamed),
        ("colour", intake.deep),
    ):
        if cases:
            yield _finding(kind, cases)
    if not intake.n_readable:
        yield _finding("no picture", (), count=intake.n_files)
    if intake.n_small:
        yield _finding("small pictures", (), count=intake.n_small)


def _finding(kind: str, cases: Sequence[Case], *, count: int | None = None) -> Finding:
    said = KINDS[kind]
    n = len(cases) if count is None else count
    text = f"{n} {said.one if n == 1 else said.many}"
    return Finding(
        kind=kind, level=said.level, text=text, advice=said.advice, cases=tuple(cases), sign=said.sign
    )


def _classes(intake: ScanReport) -> Iterator[Finding]:
    if len(intake.classes) == 1:
        yield Finding(
            kind="one class",
            level="error",
            text=f"there is one class only, {intake.classes[0]!r}",
            advice="A comparison needs two or more. Add images of another class.",
        )
    yield from _groups(intake)
    yield from _balance(intake)
    for split in ("val", "test"):
        counts = intake.readable.get(split, {})
        if missing := [name for name in intake.classes if split in intake.files and not counts.get(name)]:
            yield Finding(
                kind=f"class missing from {split}",
                level="warning",
                text=f"no readable {split} image of {', '.join(map(repr, missing))}",
                advice="Some figures will be undefined or say less.",
            )
    if intake.suggested_order:
        order = shlex.quote(",".join(intake.suggested_order))
        yield Finding(
            kind="order",
            level="note",
            text="the classes look like grades, but no order was given",
            advice=f"To treat them as ordered, add: --order {order}",
        )


def _groups(intake: ScanReport) -> Iterator[Finding]:
    """Tell of classes with too few groups for folds."""
    needed = 2 if intake.has_test else 3
    too_few = {name: n for name, n in intake.groups.items() if n < needed}
    few = {name: n for name, n in intake.groups.items() if needed <= n < MANY_FOLDS}
    if too_few:
        yield Finding(
            kind="class too small",
            level="error",
            text=f"too few groups of images to fit on, {needed} a class are needed: {_each(too_few)}",
            advice="One entry is one group, and so are (near) duplicates: no fold may split it. Add images.",
        )
    if few:
        yield Finding(
            kind="small class",
            level="warning",
            text=f"few groups of images to fit on: {_each(few)}",
            advice=f"Below {MANY_FOLDS} there are fewer folds, and the figures say less. Add images.",
        )


def _balance(intake: ScanReport) -> Iterator[Finding]:
    train = {name: n for name, n in intake.readable.get("train", {}).items() if n}
    if len(train) < 2:
        return
    most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    ratio = train[most] / train[least]
    if ratio >= IMBALANCE:
        yield Finding(
            kind="imbalance",
            level="warning" if ratio >= STRONG_IMBALANCE else "note",
            text=f"{most!r} has {ratio:.1f} times the training images of {least!r} "
            f"({train[most]} and {train[least]})",
            advice="Accuracy alone misleads: judge by balanced accuracy and macro F1.",
        )


def _each(groups: dict[str, int]) -> str:
    return ", ".join(f"{name!r} has {n}" for name, n in groups.items())
