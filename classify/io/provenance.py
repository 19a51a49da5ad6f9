"""Provenance of runs and bundles: the shell commands that make them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from classify.data import JOINS
from classify.errors import CompareError
from classify.heads.registry import HEADS, all_params
from classify.io.folder import folder_name
from classify.io.results import RESULTS, read_record
from featurize.base.terminal import default_of
from featurize.base.text import printable
from featurize.extraction.commands import extract_words
from featurize.extraction.options import ExtractOptions
from featurize.store.reader import open_store

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_-+=:,./")
# Parameters that are not options of the command, or that do not change the results.
_NO_OPTIONS = ("stores", "on_progress", "on_note", "dask")


def run_provenance(
    job: Callable[..., Any], given: Mapping[str, Any], *, stores: Sequence[Path], seconds: float
) -> dict[str, Any]:
    """Return the commands and options that make a run again: "made" in results.json.

    Parameters
    ----------
    job : callable
        `classify.jobs.compare.compare`; its signature has the defaults.
    given : mapping
        The value of each of its parameters.
    stores : sequence of Path
        The stores as given.
    seconds : float
        Duration of the run.

    Returns
    -------
    dict
        ``command``, ``extract`` (the command for each store), ``options`` and ``seconds``.
    """
    names = [name for name in given if name not in _NO_OPTIONS]
    options = _flat({name: given[name] for name in names})
    defaults = _flat({name: default_of(job, name) for name in names})
    differing = {name: value for name, value in options.items() if value != defaults[name]}
    return {
        "command": shell_line(compare_words(stores, differing)),
        "extract": [shell_line(_extract_words(path)) for path in stores],
        "options": options,
        "seconds": round(seconds, 3),
    }


def compare_words(stores: Sequence[Path], options: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that compares these stores with these options."""
    words = ["classify", "compare"]
    paths = [str(path) for path in stores]
    dashed = any(path.startswith("-") for path in paths)  # such paths must follow "--" at the end
    words += [] if dashed else paths
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and value != []:
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return [*words, "--", *paths] if dashed else words


def shell_line(words: Iterable[str]) -> str:
    r"""Return words as a printable line for bash, zsh or ksh.

    Words that are not printable, such as undecodable file names, are written as ``$'…\xNN…'``.
    """
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    if word and _SAFE.issuperset(word):
        return word
    if printable(word) == word:
        return "'" + word.replace("'", "'\"'\"'") + "'"
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if printable(character) == character:
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as plain values; the fields of a dataclass become options of their own."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if is_dataclass(value):
            flat |= _flat({field.name: getattr(value, field.name) for field in fields(value)})
        elif value is None or isinstance(value, bool | int | float | str):
            flat[name] = value
        elif isinstance(value, Iterable):
            flat[name] = list(value)
        else:
            flat[name] = str(value)
    return flat


def _extract_words(path: Path) -> list[str]:
    with open_store(path) as store:
        return extract_words(store)


_UNKNOWN = "classify compare STORE"


def remake_command(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return the command that makes a bundle again, as far as the manifest tells.

    Parameters
    ----------
    folder : Path
        Folder of the bundle. If it is in a run folder, the command of the run is returned.
    manifest : mapping
        Manifest that was not checked: any field can be missing or have any value.
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
    """Return the command in the record of a run, with --overwrite."""
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
    """Return the default paths of the stores; an empty list if the manifest does not name all stores."""
    parts = manifest.get("parts")
    if isinstance(parts, list):
        names = [part.get("store") if isinstance(part, dict) else None for part in parts]
    elif "members" in manifest:  # names of all stores; those with a plus may be fused stores
        names = [name for name in str(manifest.get("store")).split(", ") if "+" not in name]
    else:
        names = [manifest.get("store")]
    if not all(isinstance(name, str) and name for name in names):
        return []
    folder = ExtractOptions.default_folder(folder_name(str(manifest.get("dataset") or "DATA")))
    return [str(folder / f"{name}.h5") for name in names]


def _param_words(head: str, params: Any) -> list[str]:
    """Return the options for hyper-parameters that are searched or differ from their defaults."""
    if not isinstance(params, dict):
        return []
    searched = {name for grid in HEADS[head].grid for name in grid}
    defaults = {**all_params(head, {}, class_weight=None), "levels": None}
    words = []
    for name, value in params.items():
        if name not in defaults or (name not in searched and _as_typed(value) == _as_typed(defaults[name])):
            continue
        if isinstance(value, str | int | float | list):
            words += ["--param", f"{name}={_as_typed(value)}"]
    return words


def _as_typed(value: Any) -> str:
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
