"""The job of fitting one head for use: no test, one bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from classify.compare import DenseOptions, check_options, folder_name, load_same_dataset, prepare_device
from classify.heads import all_params, get_head, make_head, settle_params
from featurize import CompareError, open_store

BUNDLES = Path("artifacts") / "bundles"


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What `fit` made."""

    bundle: Path
    store: str
    head: str
    params: Mapping[str, Any]  # all, defaults included
    cv_balanced_accuracy: float | None  # None where nothing was searched
    scored_on: str  # what that score is on: "in folds" or "on val"
    n_train: int
    seconds: float
    notes: tuple[str, ...]
    facts: tuple[str, ...]  # of the images: what was left out, and why


def fit(
    store: str | os.PathLike[str],
    *,
    head: str,
    params: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    order: Sequence[str] | None = None,
    jobs: int | None = None,
    seed: int = 0,
    class_weight: str | None = None,
    dense: DenseOptions = DenseOptions(),  # noqa: B008 - frozen
    device: str = "auto",
    gpu_memory: float | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Fit one head on a store's train and val images and write it as a bundle; test is left alone.

    Parameters
    ----------
    store : path-like
    head : str
        A name from ``classify heads``.
    params : mapping, optional
        Hyper-parameters; searched on grouped folds, or on val, when none are given.
    out : path-like, optional
        The bundle's folder; ``artifacts/bundles/<dataset>/<store>__<head>`` by default.
    order, jobs, seed, class_weight, dense, device, gpu_memory, overwrite, on_progress
        As in `classify.compare.compare`.

    Returns
    -------
    FitResult

    Raises
    ------
    CompareError
        If the head cannot be fitted, or the folder is taken.
    """
    from classify.bundle import PARTS, carry_weights, save_bundle
    from classify.folder import new_folder, refuse_existing
    from classify.manifest import MANIFEST
    from classify.protocol import final_round
    from classify.running import default_jobs, run_tasks
    from classify.search import Counter, Settings, fit_task, score_tasks
    from classify.tuning import choose, search_points

    check_options([head], dense=dense, seed=seed, device=device, gpu_memory=gpu_memory)
    settings = Settings(seed=seed, class_weight=class_weight, dense_options=asdict(dense), log_folder=None)
    given = None if params is None else {**settings.options(head), **settle_params(head, params)}
    if get_head(head).tensorflow:
        make_head(head, params=given).check_parameters()
        prepare_device(device, gpu_memory=gpu_memory)
    (samples,) = load_same_dataset([Path(store)], order=order)
    place = f"{samples.store}__{head}"
    folder = Path(out) if out is not None else BUNDLES / folder_name(samples.dataset) / place
    refuse_existing(folder, mark=MANIFEST, what="bundle", overwrite=overwrite)
    work, notes = final_round(samples, seed=seed)
    tasks = score_tasks(samples, head, work, settings=settings) if given is None else []
    count = Counter(len(tasks) + 1, on_progress)
    score, seconds = None, 0.0
    if given is None:
        scores = _all_done(head, run_tasks(tasks, jobs=jobs or default_jobs([samples]), on_progress=count))
        choice = choose(search_points(head, settings.options(head)), scores)
        given, score, seconds = dict(choice.params), choice.score, choice.seconds
        notes = (*notes, *choice.notes)
    given = all_params(head, given, class_weight=class_weight)
    task = fit_task(samples, head, given, work, settings=settings, keep=True)
    (fitted,) = _all_done(head, run_tasks([task], jobs=1, on_progress=count))
    with open_store(store) as opened:
        created_with = opened.created_with
    with new_folder(folder, mark=MANIFEST, parts=PARTS) as temporary:
        kept = temporary / "kept"
        weights, more = carry_weights(
            kept, store=samples.store, config=samples.config, created_with=created_with
        )
        save_bundle(
            temporary,
            estimator=fitted.estimator,
            head=head,
            params=given,
            config=samples.config,
            config_digest=samples.config_digest,
            classes=samples.classes,
            ordered=samples.ordered,
            n_features=samples.n_features,
            dataset=samples.dataset,
            store=samples.store,
            weights=weights,
            metrics={"cv_balanced_accuracy": score},
            seed=seed,
        )
        shutil.rmtree(kept, ignore_errors=True)
    return FitResult(
        bundle=folder,
        store=samples.store,
        head=head,
        params=given,
        cv_balanced_accuracy=score,
        scored_on="on val" if samples.has_val else "in folds",
        facts=tuple(samples.facts.lines()),
        n_train=len(work.fit),
        seconds=seconds + fitted.fit_seconds,
        notes=(*notes, *fitted.notes, *more),
    )


def _all_done(head: str, outcomes: Sequence[Any]) -> Sequence[Any]:
    from classify.search import first_failure

    if reason := first_failure(outcomes):
        raise CompareError(f"{head}: could not be fitted: {reason}")
    return outcomes
