"""Folder layouts: which folders are splits and classes, and the order of the classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featurize.errors import ConfigError, DatasetError
from featurize.images.files import files_below, list_folder

SPLITS = ("train", "val", "test", "new")

_ALIASES = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
    "new": ("new", "unlabelled", "unlabeled", "ungraded"),
}
_SPLIT_OF = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
# Only used to distinguish a folder of images from empty class folders next to a note.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".jp2")
LAYOUTS = (
    "DATA/train/CLASS/... with DATA/test/CLASS/..., or DATA/CLASS/..., or DATA/new/... for ungraded images"
)


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """A folder that contains, at any depth, the images of one class in one split."""

    folder: str  # relative to the root; "" for the root itself
    split: str  # one of SPLITS
    class_name: str  # "" for ungraded images
    files: list[str]  # paths relative to the root


@dataclass(kw_only=True)
class Layout:
    """Class folders and other files of a folder tree; filled while the tree is read."""

    root: Path
    has_split: bool = False
    class_folders: list[ClassFolder] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # files in no class folder
    ignored: int = 0  # number of hidden and system names


def read_layout(root: Path) -> Layout:
    """Find the splits and classes of a folder tree.

    Raises
    ------
    DatasetError
        If the tree has none of the layouts; the message says where and what to change.
    """
    layout = Layout(root=root)
    folders, files, layout.ignored = list_folder(layout.root, "")
    split_folders = _split_folders(root, folders)
    if "train" in split_folders:
        layout.has_split = True
        layout.outside += files
        _read_splits(layout, split_folders, folders)
    elif held_out := [split_folders[split] for split in ("val", "test") if split in split_folders]:
        raise DatasetError(
            f"{root}: there is {_quoted(held_out)} but no 'train' folder. Put the training images into "
            f"{root / 'train'}/CLASS/..., or rename it if it is a class"
        )
    else:
        class_folders = [name for name in folders if name not in split_folders.values()]
        _add_classes(layout, {name: _normalized(name) for name in class_folders}, "train")
        images = [name for name in files if name.lower().endswith(_IMAGE_SUFFIXES)]
        no_classes = "new" not in split_folders and not any(folder.files for folder in layout.class_folders)
        if no_classes and (images or (files and not folders)):
            layout.class_folders = [ClassFolder(folder="", split="new", class_name="", files=files)]
        else:
            layout.outside += files
    _check_not_empty(layout)
    if "new" in split_folders:
        _add_folder(layout, split_folders["new"], "new", "")
    if not any(folder.files for folder in layout.class_folders):
        raise DatasetError(f"{root}: no images found. Expected {LAYOUTS}")
    return layout


def _split_folders(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """Return the folder name of each split that exists."""
    found: dict[str, str] = {}
    for name in folders:
        split = _SPLIT_OF.get(name.lower())
        if split in found:
            raise DatasetError(
                f"{root}: {found[split]!r} and {name!r} both mean the split {split!r}. Merge them"
            )
        if split:
            found[split] = name
    return found


def _read_splits(layout: Layout, split_folders: dict[str, str], folders: list[str]) -> None:
    """Add the classes of train, val and test; a split suffix is stripped from their names."""
    unknown = [name for name in folders if name not in split_folders.values()]
    if unknown:
        raise DatasetError(
            f"{layout.root}: {_quoted(unknown)} next to 'train' is not a split. Expected only val, test or "
            "new (ungraded images) there: rename it, move it away, or, if it is a class, move it into 'train'"
        )
    for split in SPLITS[:-1]:
        if split not in split_folders:
            continue
        folder = split_folders[split]
        names, loose, ignored = list_folder(layout.root, folder)
        layout.outside += loose
        layout.ignored += ignored
        _add_classes(layout, {f"{folder}/{name}": _class_name(name, split) for name in names}, split)
    classes = {
        split: sorted(p.class_name for p in layout.class_folders if p.split == split) for split in SPLITS
    }
    if not classes["train"]:
        folder = split_folders["train"]
        raise DatasetError(
            f"{layout.root / folder}: no class folders found. Put the training images into "
            f"{layout.root / folder}/CLASS/..., one folder per class"
        )
    for split in ("val", "test"):
        if extra := [name for name in classes[split] if name not in classes["train"]]:
            raise DatasetError(
                f"{layout.root}: class {_quoted(extra)} is in {split} but not in train. "
                f"train has {_quoted(classes['train'])}; {split} has {_quoted(classes[split])}. "
                f"Rename the folder, or add images of that class to train"
            )


def _add_classes(layout: Layout, class_names: dict[str, str], split: str) -> None:
    first: dict[str, str] = {}
    for folder, class_name in class_names.items():
        if class_name in first:
            raise DatasetError(
                f"{layout.root}: {first[class_name]!r} and {folder!r} both mean the class {class_name!r}. "
                f"Merge them or rename one"
            )
        first[class_name] = folder
        _add_folder(layout, folder, split, class_name)


def _add_folder(layout: Layout, folder: str, split: str, class_name: str) -> None:
    files, ignored = files_below(layout.root, folder)
    layout.class_folders.append(ClassFolder(folder=folder, split=split, class_name=class_name, files=files))
    layout.ignored += ignored


def _check_not_empty(layout: Layout) -> None:
    for folder in layout.class_folders:
        if not folder.files:
            raise DatasetError(
                f"{layout.root / folder.folder}: no files found, so class {folder.class_name!r} is empty. "
                f"Add images or remove the folder"
            )


def _class_name(folder: str, split: str) -> str:
    name = _normalized(folder)
    for alias in _ALIASES[split]:
        stem, suffix = name[: -len(alias) - 1], name[-len(alias) - 1 :]
        if stem and suffix.lower() in {f"_{alias}", f"-{alias}", f" {alias}"}:
            return stem.strip() or name
    return name


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip() or name


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


# Grade scales from worst (or least) to best. Names in one tuple are synonyms. Used only for suggestions.
SCALES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (  # height
        ("lowest", "very low"),
        ("low", "lower"),
        ("lower middle", "lower mid", "lower medium"),
        ("middle", "mid", "medium", "moderate", "average"),
        ("upper middle", "upper mid", "upper medium"),
        ("high", "higher", "top"),
        ("highest", "very high"),
        ("award", "awards", "awarded", "prize", "winner", "winners", "winning", "best"),
    ),
    (  # quality
        ("worst", "terrible", "awful", "very bad", "very poor"),
        ("bad", "poor", "weak"),
        (
            "fair",
            "average",
            "medium",
            "middle",
            "mediocre",
            "ok",
            "okay",
            "acceptable",
            "satisfactory",
            "normal",
        ),
        ("good", "strong"),
        ("great", "very good"),
        ("excellent", "best", "outstanding", "exceptional"),
    ),
    (  # severity
        ("none", "no", "undamaged", "intact", "healthy", "normal"),
        ("minimal", "very mild"),
        ("minor", "mild", "slight", "light"),
        ("moderate", "medium"),
        ("major", "severe", "serious", "heavy"),
        ("extreme", "critical", "total", "destroyed", "very severe", "proliferative"),
    ),
    (("fail", "failed"), ("pass", "passed"), ("merit", "credit"), ("distinction",), ("high distinction",)),
    (("bronze",), ("silver",), ("gold",), ("platinum",), ("diamond",)),
    (
        ("xxs",),
        ("xs", "tiny", "very small", "extra small"),
        ("s", "small"),
        ("m", "medium", "middle", "mid"),
        ("l", "large", "big"),
        ("xl", "huge", "very large", "extra large"),
        ("xxl",),
    ),
    (("beginner", "novice"), ("intermediate",), ("advanced",), ("expert", "master", "professional")),
    (("never",), ("rarely",), ("sometimes",), ("often",), ("always",)),
    tuple((f"{letter}{sign}",) for letter in "fedcba" for sign in ("-", "", "+")),
)

# Words that are not part of the grade itself: "low quality", "grade a", "minor damage".
_FILLERS = frozenset({"quality", "grade", "grades", "graded", "level", "damage", "severity", "rating"})
_NUMBERED = re.compile(r"([0-9]+)(?:[\s_.)-].*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ClassOrder:
    """Classes in label order, whether they are ordered, and a suggested order."""

    classes: tuple[str, ...]
    ordered: bool
    suggested: tuple[str, ...] | None


def order_classes(names: Iterable[str], *, order: Sequence[str] | None = None) -> ClassOrder:
    """Return class names in label order.

    Parameters
    ----------
    names : iterable of str
        The distinct class names, NFC-normalised.
    order : sequence of str, optional
        All classes from worst to best. The classes are then ordered.

    Returns
    -------
    ClassOrder
        In the given order; else sorted by number if every name starts with a different one (``1_low``,
        ``10_best``); else alphabetical, with a suggested order if all names are grades of one scale.

    Raises
    ------
    ConfigError
        If `order` does not list every class exactly once.
    """
    found = tuple(sorted(names))
    if order is not None:
        given = tuple(unicodedata.normalize("NFC", name.strip()) for name in order)
        if tuple(sorted(given)) != found:
            raise ConfigError(
                f"The order {_bracketed(given)} does not match the classes {_bracketed(found)}. "
                f"Name each class once, lowest first: --order {_as_option(suggest_order(found) or found)}"
            )
        return ClassOrder(classes=given, ordered=True, suggested=None)
    numbers = _numbers(found)
    if numbers is not None:
        by_number = tuple(sorted(found, key=numbers.__getitem__))
        return ClassOrder(classes=by_number, ordered=True, suggested=None)
    return ClassOrder(classes=found, ordered=False, suggested=suggest_order(found))


def suggest_order(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names from lowest to highest if they are different grades of one scale, else None."""
    if len(names) < 2:
        return None
    words = [_grade_words(name) for name in names]
    for scale in SCALES:
        rank_of = {synonym: rank for rank, synonyms in enumerate(scale) for synonym in synonyms}
        ranks = [rank_of.get(word) for word in words]
        found = [rank for rank in ranks if rank is not None]
        if len(set(found)) == len(names):
            return tuple(name for _, name in sorted(zip(found, names, strict=True)))
    return None


def _numbers(names: Sequence[str]) -> Mapping[str, int] | None:
    """Return the leading number of each name; None if one has no number or two share one."""
    matches = {name: _NUMBERED.fullmatch(name) for name in names}
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    return numbers if len(names) > 1 and len(set(numbers.values())) == len(names) else None


def _grade_words(name: str) -> str:
    # A sign at the end is kept ("A-"); separators between words become spaces.
    words = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", name.casefold().strip()).split()
    return " ".join([word for word in words if word not in _FILLERS] or words)


def _bracketed(names: Sequence[str]) -> str:
    return "[" + ", ".join(repr(name) for name in names) + "]"


def _as_option(names: Sequence[str]) -> str:
    text = ",".join(names)
    return text if re.fullmatch(r"[\w.,+-]*", text) else f"'{text}'"
