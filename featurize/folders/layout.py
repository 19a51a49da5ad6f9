"""Which folder of a tree is which split and which class."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from featurize.errors import DatasetError
from featurize.folders.files import files_below, list_folder

SPLITS = ("train", "val", "test", "new")

_ALIASES = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
    "new": ("new", "unlabelled", "unlabeled", "ungraded"),
}
_SPLIT_OF = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
# Only to tell a folder of pictures from empty class folders beside a note; otherwise content decides.
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".jp2")
LAYOUTS = (
    "DATA/train/CLASS/... with DATA/test/CLASS/..., or DATA/CLASS/..., or DATA/new/... for ungraded images"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder whose files, at any depth, are images of one class in one split."""

    folder: str  # relative to the root; "" is the root itself
    split: str  # one of SPLITS
    class_name: str  # "" for ungraded images
    files: list[str]  # relative to the root


@dataclass(kw_only=True)
class Layout:
    """What a folder tree holds, filled in while it is read."""

    root: Path
    has_split: bool = False
    places: list[Place] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # files in none of the places
    ignored: int = 0  # names passed over


def read_layout(root: Path) -> Layout:
    """Find the splits and classes of a folder tree.

    Raises
    ------
    DatasetError
        If it is none of the layouts; the text says what and where, and what to change.
    """
    layout = Layout(root=root)
    folders, files, layout.ignored = list_folder(layout.root, "")
    split_folders = _split_folders(root, folders)
    if "train" in split_folders:
        layout.has_split = True
        layout.outside += files
        _read_splits(layout, split_folders, folders)
    elif lonely := [split_folders[split] for split in ("val", "test") if split in split_folders]:
        raise DatasetError(
            f"{root}: there is {_quoted(lonely)} but no 'train' folder. Put the training images into "
            f"{root / 'train'}/CLASS/..., or rename it if it is a class"
        )
    else:
        class_folders = [name for name in folders if name not in split_folders.values()]
        _add_classes(layout, {name: _tidy(name) for name in class_folders}, "train")
        pictures = [name for name in files if name.lower().endswith(_PICTURE_SUFFIXES)]
        nothing_below = "new" not in split_folders and not any(place.files for place in layout.places)
        if nothing_below and (pictures or (files and not folders)):
            layout.places = [Place(folder="", split="new", class_name="", files=files)]
        else:
            layout.outside += files
    _check_not_empty(layout)
    if "new" in split_folders:
        _add_place(layout, split_folders["new"], "new", "")
    if not any(place.files for place in layout.places):
        raise DatasetError(f"{root}: no images in it. Expected {LAYOUTS}")
    return layout


def _split_folders(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """Return the folder of each split there is."""
    found: dict[str, str] = {}
    for name in folders:
        split = _SPLIT_OF.get(name.lower())
        if split in found:
            raise DatasetError(
                f"{root}: {found[split]!r} and {name!r} are both the split {split!r}. Merge them into one"
            )
        if split:
            found[split] = name
    return found


def _read_splits(layout: Layout, split_folders: dict[str, str], folders: list[str]) -> None:
    """Add the classes of train, val and test; the split's own name is stripped from the end of theirs."""
    unknown = [name for name in folders if name not in split_folders.values()]
    if unknown:
        raise DatasetError(
            f"{layout.root}: {_quoted(unknown)} beside 'train' is not a split. Expected only val, test or "
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
    classes = {split: sorted(p.class_name for p in layout.places if p.split == split) for split in SPLITS}
    if not classes["train"]:
        folder = split_folders["train"]
        raise DatasetError(
            f"{layout.root / folder}: no class folders in it. Put the training images into "
            f"{layout.root / folder}/CLASS/..., one folder a class"
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
                f"{layout.root}: {first[class_name]!r} and {folder!r} are both the class {class_name!r}. "
                f"Merge them or rename one"
            )
        first[class_name] = folder
        _add_place(layout, folder, split, class_name)


def _add_place(layout: Layout, folder: str, split: str, class_name: str) -> None:
    files, ignored = files_below(layout.root, folder)
    layout.places.append(Place(folder=folder, split=split, class_name=class_name, files=files))
    layout.ignored += ignored


def _check_not_empty(layout: Layout) -> None:
    for place in layout.places:
        if not place.files:
            raise DatasetError(
                f"{layout.root / place.folder}: no files in it, class {place.class_name!r} is empty there. "
                f"Add images or remove the folder"
            )


def _class_name(folder: str, split: str) -> str:
    name = _tidy(folder)
    for alias in _ALIASES[split]:
        stem, suffix = name[: -len(alias) - 1], name[-len(alias) - 1 :]
        if stem and suffix.lower() in {f"_{alias}", f"-{alias}", f" {alias}"}:
            return stem.strip() or name
    return name


def _tidy(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip() or name


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
