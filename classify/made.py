"""How a run was made: the commands that make it again, to be pasted into a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from classify.results import plain_json
from featurize import default_of, extract_words, open_store, printable

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_-+=:,./")
# Parameters that are none of the command's, or say where it ran and not what it did.
_NO_OPTIONS = ("stores", "on_progress", "on_note", "dask")


def how_made(
    job: Callable[..., Any], given: Mapping[str, Any], *, stores: Sequence[Path], seconds: float
) -> dict[str, Any]:
    """Return what it takes to make a run again.

    Parameters
    ----------
    job : callable
        `classify.compare.compare`, for the defaults in its signature.
    given : mapping
        The values of all its parameters.
    stores : sequence of Path
        As they were given.
    seconds : float
        That it took.

    Returns
    -------
    dict
        Plain JSON: ``command``, ``extract`` (the command of each store), ``options`` and ``seconds``.
    """
    names = [name for name in given if name not in _NO_OPTIONS]
    options = _flat({name: given[name] for name in names})
    defaults = _flat({name: default_of(job, name) for name in names})
    differing = {name: value for name, value in options.items() if value != defaults[name]}
    return {
        "command": shell_line(compare_words(stores, differing)),
        "extract": [shell_line(_extract_words(path)) for path in stores],
        "options": plain_json(options),
        "seconds": round(seconds, 3),
    }


def compare_words(stores: Sequence[Path], options: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that compares these stores with these options."""
    words = ["classify", "compare"]
    paths = [str(path) for path in stores]
    dashed = any(path.startswith("-") for path in paths)  # these stand last, behind what ends the options
    words += [] if dashed else paths
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and value != []:
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return [*words, "--", *paths] if dashed else words


def shell_line(words: Iterable[str]) -> str:
    r"""Return words as a line for bash, zsh or ksh that any text file can hold.

    Words that a text cannot show as they are, such as undecodable file names, are written ``$'…\xNN…'``.
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
    """Return plain options, those that are one object by their own names."""
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
