"""What in the facts of a data set needs a person, and what is only worth knowing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurize.intake.finding_kinds import KINDS, LEVELS

if TYPE_CHECKING:
    from featurize.intake.intake import Intake
    from featurize.intake.likeness import Alike

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
    sign: str = ":"  # what stands between the parts of a case, as in `Kind`


def find(intake: Intake) -> tuple[Finding, ...]:
    """Return the findings, errors first, then warnings, then notes.

    Parameters
    ----------
    intake : Intake
        The facts; its own findings are not looked at.
    """
    steps: tuple[Callable[[Intake], Iterator[Finding]], ...] = (_alike, _files, _classes)
    found = [finding for step in steps for finding in step(intake)]
    levels, kinds = list(LEVELS), list(KINDS)
    last = len(kinds)
    return tuple(
        sorted(
            found,
            key=lambda f: (levels.index(f.level), kinds.index(f.kind) if f.kind in KINDS else last),
        )
    )


def _alike(intake: Intake) -> Iterator[Finding]:
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


def _kinds_of_copies(alike: Alike, intake: Intake) -> list[str]:
    if worst := [
        *(["same file under two grades"] if len(alike.classes) > 1 else []),
        *(["same file in two splits"] if _leaks(alike, intake) else []),
    ]:
        return worst
    if "new" in alike.splits:
        return ["ungraded copies"]
    return ["copies in test"] if alike.splits == {"test"} else ["copies"]


def _kinds_of_near_duplicates(alike: Alike, intake: Intake) -> list[str]:
    if worst := [
        *(["near duplicates under two grades"] if len(alike.classes) > 1 else []),
        *(["near duplicates in two splits"] if _leaks(alike, intake) else []),
    ]:
        return worst
    return ["ungraded near duplicates"] if "new" in alike.splits else ["near duplicates"]


def _leaks(alike: Alike, intake: Intake) -> bool:
    """Tell whether graded images stand in several splits that a comparison keeps apart."""
    return intake.has_test and len(alike.splits - {"new"}) > 1


def _files(intake: Intake) -> Iterator[Finding]:
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


def _classes(intake: Intake) -> Iterator[Finding]:
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


def _groups(intake: Intake) -> Iterator[Finding]:
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


def _balance(intake: Intake) -> Iterator[Finding]:
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
