"""The command that makes a bundle again whose form this version no longer reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classify.entries import JOINS
from classify.folder import folder_name
from classify.heads import HEADS, all_params
from classify.made import shell_line
from classify.results import RESULTS, read_record
from featurize import CompareError

FEATURES = Path("artifacts") / "features"  # where `featurize extract` puts stores
_UNKNOWN = "classify compare STORE"


def remake_command(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return the command that makes a bundle again, as far as an unchecked manifest tells.

    Parameters
    ----------
    folder : Path
        Of the bundle. In the folder of a run it is that run's command.
    manifest : mapping
        Of an earlier version: any field may be missing or anything.
    """
    for run in folder.absolute().parents[1:3]:
        if (run / RESULTS).is_file():
            return _command_of_run(run)
    head, ensemble = manifest.get("head"), "members" in manifest
    stores = _stores(manifest)
    if not stores or not (ensemble or (isinstance(head, str) and head in HEADS)):
        return _UNKNOWN
    if ensemble or len(stores) > 1:
        words = ["classify", "compare", *stores]
        words += ["--fuse"] if len(stores) > 1 else []
        words += ["--heads", "all" if ensemble else str(head)]
        return shell_line([*words, *_order(manifest), *_join(manifest), *_seed(manifest)])
    words = ["classify", "fit", *stores, "--head", str(head)]
    words += _param_words(str(head), manifest.get("params"))
    words += [*_order(manifest), *_join(manifest), *_seed(manifest)]
    return shell_line([*words, "--out", str(folder), "--overwrite"])


def _command_of_run(run: Path) -> str:
    """Return the command that a run's record names; it may replace the run."""
    try:
        made = read_record(run).get("made")
    except CompareError:
        return _UNKNOWN
    command = made.get("command") if isinstance(made, dict) else None
    start = "classify compare "
    if not isinstance(command, str) or not command.startswith(start):
        return _UNKNOWN
    return command if " --overwrite" in command else f"{start}--overwrite {command.removeprefix(start)}"


def _stores(manifest: Mapping[str, Any]) -> list[str]:
    """Return the paths that the stores had by default; none where the manifest does not name each."""
    parts = manifest.get("parts")
    if isinstance(parts, list):
        names = [part.get("store") if isinstance(part, dict) else None for part in parts]
    elif "members" in manifest:  # of several stores it names all; one with a plus may be of fused ones
        names = [name for name in str(manifest.get("store")).split(", ") if "+" not in name]
    else:
        names = [manifest.get("store")]
    if not all(isinstance(name, str) and name for name in names):
        return []
    folder = FEATURES / folder_name(str(manifest.get("dataset") or "DATA"))
    return [str(folder / f"{name}.h5") for name in names]


def _param_words(head: str, params: Any) -> list[str]:
    """Return the hyper-parameters that are searched, or differ from the defaults."""
    if not isinstance(params, dict):
        return []
    searched = {name for grid in HEADS[head].grid for name in grid}
    defaults = {**all_params(head, {}, class_weight=None), "levels": None}
    words = []
    for name, value in params.items():
        if name not in defaults or (name not in searched and _plain(value) == _plain(defaults[name])):
            continue
        if isinstance(value, str | int | float | list):
            words += ["--param", f"{name}={_plain(value)}"]
    return words


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _order(manifest: Mapping[str, Any]) -> list[str]:
    classes = manifest.get("classes")
    if manifest.get("ordered") is not True or not isinstance(classes, list):
        return []
    return ["--order", ",".join(map(str, classes))]


def _join(manifest: Mapping[str, Any]) -> list[str]:
    join = manifest.get("join")
    return ["--join", join] if join in JOINS[1:] else []


def _seed(manifest: Mapping[str, Any]) -> list[str]:
    seed = manifest.get("seed")
    return ["--seed", str(seed)] if type(seed) is int and seed > 0 else []
