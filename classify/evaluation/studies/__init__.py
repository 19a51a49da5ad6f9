"""Studies of the training images: leakage, learning curve, views, levels, fusion, class order, label quality.

No study uses the grades or predictions of test images. Importing this package loads no heavy library.
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


# Name → function of this package.
STUDIES: Mapping[str, str] = {
    "leaks": "views.study_leakage",  # scores of folds that ignore groups or separate the views of an image
    "learning": "learning_curve.study_learning_curve",  # accuracy with fewer and with more training images
    "views": "views.study_augmentation",  # effect of the augmented views
    "levels": "representations.study_levels",  # effect of the earlier network levels
    "fusion": "representations.study_fusion",  # effect of fusing the features of several stores
    "ordering": "representations.study_order",  # effect of using the order of the classes
    "labels": "label_quality.study_label_quality",  # grades to review, written to doubtful.csv
}
ALL = "all"


def resolve_studies(names: Iterable[str]) -> tuple[str, ...]:
    """Return the requested studies without duplicates, in the order of `STUDIES`; "all" selects all of them.

    Raises
    ------
    CompareError
        If a name is unknown.
    """
    requested = set(names)
    if unknown := sorted(requested - {*STUDIES, ALL}):
        raise CompareError(f"Unknown study {unknown[0]!r}: expected some of {', '.join((*STUDIES, ALL))}")
    return tuple(name for name in STUDIES if ALL in requested or name in requested)


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
    """Run studies of the recommended head. A study that is not possible has a reason instead of results.

    Parameters
    ----------
    names : sequence of str
        From `resolve_studies`.
    candidates : sequence of CandidateResult
        All heads that were compared.
    protocol : EvaluationProtocol
    recommended : mapping, optional
        Store and head, as in ``results.json``.
    settings : SearchSettings
    folder : Path
        The run folder, for ``doubtful.csv``.
    jobs, cache, before_tensorflow, on_progress
        As in `classify.model_selection.grid_search.run_candidates`.

    Returns
    -------
    dict
        Name → JSON data for ``results.json``. ``text`` has the main result in one or two sentences,
        ``reason`` exists only if the study was not possible.
    """
    if not names:
        return {}
    from classify.evaluation.studies.base import make_context
    from classify.model_selection.grid_search import make_runner

    run = make_runner(cache=cache, jobs=jobs, before_tensorflow=before_tensorflow, on_progress=on_progress)
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            context = make_context(
                candidates, protocol, recommended=recommended, settings=settings, run=run, folder=folder
            )
            module, _, function = STUDIES[name].rpartition(".")
            study: Callable[..., dict[str, Any]] = getattr(
                importlib.import_module(f"{__name__}.{module}"), function
            )
            results[name] = {"store": context.samples.store, "head": context.head, **study(context)}
        except CompareError as error:  # the comparison and the other studies are still valid
            results[name] = {"text": f"Study {name!r} not possible: {error}", "reason": str(error)}
    return results


def study_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the results of a run's studies as lines to print."""
    return [
        line
        for study in record.get("studies", {}).values()
        for line in (study["text"], *(f"  {detail}" for detail in study.get("shown", ())))
    ]
