"""Studies of the training images: what leaks would show, what more images, views, levels and order bring.

None of them ever looks at how a test image is graded. Importing this is cheap.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classify.errors import CompareError

if TYPE_CHECKING:
    from pathlib import Path

    from classify.model_selection.cache import TaskCache
    from classify.model_selection.dask import DaskJobs
    from classify.model_selection.grid_search import CandidateResult, SearchSettings
    from classify.model_selection.protocol import EvaluationProtocol


# Name → the function of this package that does it, and what it asks.
STUDIES: Mapping[str, tuple[str, str]] = {
    "leaks": ("views.study_leakage", "what folds over rows of views would have shown"),
    "learning": ("learning_curve.study_learning_curve", "what more training images would bring"),
    "views": ("views.study_augmentation", "whether the augmented views paid"),
    "levels": ("representations.study_levels", "whether the levels before the final one paid"),
    "fusion": ("representations.study_fusion", "whether the features of several stores side by side paid"),
    "ordering": (
        "representations.study_order",
        "whether it helped to tell the head the order of the classes",
    ),
    "labels": ("label_quality.study_label_quality", "which grades to look at again: doubtful.csv"),
}
ALL = "all"


def known_studies(names: Iterable[str]) -> tuple[str, ...]:
    """Return the studies asked for, once each, in the order of `STUDIES`; "all" is all of them.

    Raises
    ------
    CompareError
        If one is unknown.
    """
    asked = set(names)
    if unknown := sorted(asked - {*STUDIES, ALL}):
        raise CompareError(f"Unknown study {unknown[0]!r}: expected some of {', '.join((*STUDIES, ALL))}")
    return tuple(name for name in STUDIES if ALL in asked or name in asked)


def run_studies(
    names: Sequence[str],
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    recommended: Mapping[str, Any] | None,
    settings: SearchSettings,
    folder: Path,
    jobs: int | DaskJobs,
    cache: TaskCache | None = None,
    before_tensorflow: Callable[[], object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Do some studies of the recommended head; one that cannot be done says why.

    Parameters
    ----------
    names : sequence of str
        From `known_studies`.
    candidates : sequence of CandidateResult
        All heads that were compared.
    protocol : EvaluationProtocol
    recommended : mapping, optional
        Store and head, as in ``results.json``.
    settings : SearchSettings
    folder : Path
        Where ``doubtful.csv`` goes.
    jobs, cache, before_tensorflow, on_progress
        As in `classify.model_selection.grid_search.run_candidates`.

    Returns
    -------
    dict
        Name → plain data for ``results.json``, with a sentence or two as ``text``.
    """
    if not names:
        return {}
    from classify.evaluation.studies.base import make_context
    from classify.model_selection.grid_search import make_runner

    run = make_runner(cache=cache, jobs=jobs, before_tensorflow=before_tensorflow, on_progress=on_progress)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            case = make_context(
                candidates, protocol, recommended=recommended, settings=settings, run=run, folder=folder
            )
            module, _, function = STUDIES[name][0].rpartition(".")
            study: Callable[..., dict[str, Any]] = getattr(
                importlib.import_module(f"{__name__}.{module}"), function
            )
            found[name] = {"store": case.samples.store, "head": case.head, **study(case)}
        except CompareError as error:  # a study must not take the comparison with it
            found[name] = {"text": f"Study of {name} not done: {error}", "reason": str(error)}
    return found


def study_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what the studies of a run say, to be printed line by line."""
    return [
        line
        for found in record.get("studies", {}).values()
        for line in (found["text"], *(f"  {more}" for more in found.get("shown", ())))
    ]
