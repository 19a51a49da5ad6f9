"""The order of the classes: as asked for, by number, or alphabetical; and what an order might be."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from featurize.errors import ConfigError

# Grade scales, worst (or least) first. Names at one place are synonyms. Only ever a suggestion to the user.
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

# Words that name what is graded, not the grade: "low quality", "grade a", "minor damage".
_FILLERS = frozenset({"quality", "grade", "grades", "graded", "level", "damage", "severity", "rating"})
_NUMBERED = re.compile(r"([0-9]+)(?:[\s_.)-].*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ClassOrder:
    """Classes in label order, whether that order means something, and an order worth suggesting."""

    classes: tuple[str, ...]
    ordered: bool
    suggested: tuple[str, ...] | None


def order_classes(names: Iterable[str], *, order: Sequence[str] | None = None) -> ClassOrder:
    """Put class names in label order.

    Parameters
    ----------
    names : iterable of str
        The classes found, each once, NFC-normalised.
    order : sequence of str, optional
        All of them, worst first. Makes the classes ordered.

    Returns
    -------
    ClassOrder
        The given order; else by number where every name starts with its own (``1_low``, ``10_best``); else
        alphabetical, with a suggestion where all the names are grades of one scale.

    Raises
    ------
    ConfigError
        If `order` is not exactly the classes, each once.
    """
    found = tuple(sorted(names))
    if order is not None:
        wanted = tuple(unicodedata.normalize("NFC", name.strip()) for name in order)
        if tuple(sorted(wanted)) != found:
            raise ConfigError(
                f"The order {_listed(wanted)} is not the classes {_listed(found)}. "
                f"Name each class once, lowest first: --order {_typed(suggest_order(found) or found)}"
            )
        return ClassOrder(classes=wanted, ordered=True, suggested=None)
    numbers = _numbers(found)
    if numbers is not None:
        by_number = tuple(sorted(found, key=numbers.__getitem__))
        return ClassOrder(classes=by_number, ordered=True, suggested=None)
    return ClassOrder(classes=found, ordered=False, suggested=suggest_order(found))


def suggest_order(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names from the lowest grade up if they are different grades of one scale, else None."""
    if len(names) < 2:
        return None
    words = [_grade_words(name) for name in names]
    for scale in SCALES:
        place = {synonym: rank for rank, synonyms in enumerate(scale) for synonym in synonyms}
        ranks = [place.get(word) for word in words]
        known = [rank for rank in ranks if rank is not None]
        if len(set(known)) == len(names):
            return tuple(name for _, name in sorted(zip(known, names, strict=True)))
    return None


def _numbers(names: Sequence[str]) -> Mapping[str, int] | None:
    """Return the number in front of each name, or None where one lacks it or two share it."""
    matches = {name: _NUMBERED.fullmatch(name) for name in names}
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    return numbers if len(names) > 1 and len(set(numbers.values())) == len(names) else None


def _grade_words(name: str) -> str:
    # A sign at the end stays ("A-"); a separator between words becomes a space.
    words = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", name.casefold().strip()).split()
    return " ".join([word for word in words if word not in _FILLERS] or words)


def _listed(names: Sequence[str]) -> str:
    return "[" + ", ".join(repr(name) for name in names) + "]"


def _typed(names: Sequence[str]) -> str:
    text = ",".join(names)
    return text if re.fullmatch(r"[\w.,+-]*", text) else f"'{text}'"
