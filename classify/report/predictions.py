"""Reader of predictions.csv: the predictions of every head on the tested entries."""

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
from classify.io.results import PREDICTIONS, probability_names
from featurize.base.text import safe_cell


@dataclass(frozen=True, kw_only=True, eq=False)
class TestedEntries:
    """The tested entries of a run and the predictions of each head."""

    entry: tuple[str, ...]  # (n_entries,) as written in predictions.csv
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
        Entries in the order of the first head.

    Raises
    ------
    CompareError
        If the file is missing or damaged, or if it does not belong to this record.
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
                head_rows = rows.setdefault((row["store"], row["head"]), {})
                head_rows[row["entry"]] = [_finite(row[name]) for name in columns]
                true.setdefault(row["entry"], label[row["true_class"]])
    except FileNotFoundError:
        raise CompareError(f"{folder}: {PREDICTIONS} is missing. {_AGAIN}") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise CompareError(f"{path}: cannot be read ({error!r}). {_AGAIN}") from None
    entries = tuple(true)
    incomplete = [key for key, head_rows in rows.items() if head_rows.keys() != true.keys()]
    results = {(safe_cell(result["store"]), result["head"]): result for result in record["results"]}
    if incomplete or {key for key, result in results.items() if result["status"] == "ok"} - rows.keys():
        raise CompareError(f"{path}: does not belong to the results.json in this folder. {_AGAIN}")
    return TestedEntries(
        entry=entries,
        y=np.array(list(true.values()), dtype=np.int64),
        probabilities={
            (results[key]["store"], key[1]): np.array([head_rows[entry] for entry in entries]).reshape(
                len(entries), len(columns)
            )
            for key, head_rows in rows.items()
            if key in results
        },
    )


def _require_end(path: Path) -> None:
    """Raise ValueError if the last line is incomplete: its truncated last number could still be valid."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        complete = stream.read(1) == b"\n"
    if not complete:
        raise ValueError("its end is missing")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a probability")
    return value


_AGAIN = "Run classify compare again"
