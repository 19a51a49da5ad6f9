"""What the heads of a run said of its tested entries, as read back from predictions.csv."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.errors import CompareError
from classify.io.results import PREDICTIONS, probability_names, safe_cell


@dataclass(frozen=True, kw_only=True, eq=False)
class TestedEntries:
    """The entries that a run was tested on, and what each head said of them."""

    entry: tuple[str, ...]  # (n_entries,) as predictions.csv shows them
    y: npt.NDArray[np.int64]  # (n_entries,) index into the run's classes
    probabilities: Mapping[tuple[str, str], npt.NDArray[np.float64]]  # store, head → (n_entries, n_classes)


def read_tested(folder: Path, record: Mapping[str, Any]) -> TestedEntries:
    """Read predictions.csv of a run.

    Parameters
    ----------
    folder : Path
        The run.
    record : mapping
        Its results.json.

    Returns
    -------
    TestedEntries
        Entries in the order in which the first head has them.

    Raises
    ------
    CompareError
        If the file is missing, or is not that of this record.
    """
    path = folder / PREDICTIONS
    label = {safe_cell(name): k for k, name in enumerate(record["classes"])}
    columns = [safe_cell(name) for name in probability_names(record["classes"])]
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    true: dict[str, int] = {}
    try:
        _require_end(path)
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                said = rows.setdefault((row["store"], row["head"]), {})
                said[row["entry"]] = [_finite(row[name]) for name in columns]
                true.setdefault(row["entry"], label[row["true_class"]])
    except FileNotFoundError:
        raise CompareError(f"{folder}: no {PREDICTIONS} there. {_AGAIN}") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise CompareError(f"{path}: cannot be read ({error!r}). {_AGAIN}") from None
    entries = tuple(true)
    lacking = [key for key, said in rows.items() if said.keys() != true.keys()]
    wanted = {(safe_cell(result["store"]), result["head"]): result for result in record["results"]}
    if lacking or {key for key, result in wanted.items() if result["status"] == "ok"} - rows.keys():
        raise CompareError(f"{path}: not of the same run as results.json beside it. {_AGAIN}")
    return TestedEntries(
        entry=entries,
        y=np.array(list(true.values()), dtype=np.int64),
        probabilities={
            (wanted[key]["store"], key[1]): np.array([said[entry] for entry in entries]).reshape(
                len(entries), len(columns)
            )
            for key, said in rows.items()
            if key in wanted
        },
    )


def _require_end(path: Path) -> None:
    """Raise ValueError where the last line is torn: what is left of its last figure may be one as well."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        whole = stream.read(1) == b"\n"
    if not whole:
        raise ValueError("its end is missing")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no probability")
    return value


_AGAIN = "Make the run anew: classify compare STORE"
