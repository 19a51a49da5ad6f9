"""The job of ``classify fit``: fit one head on one store and write it as a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.data import JOINS
from classify.data.levels import resolve_levels, without_levels
from classify.data.load import load_same_dataset, require_in_memory
from classify.errors import CompareError
from classify.heads.registry import all_params, get_head, make_head, validate_params
from classify.heads.select import needs_tensorflow, require_order
from classify.io.folder import folder_name
from classify.io.manifest import MANIFEST, read_manifest
from classify.io.results import RESULTS, FitResult, read_record
from classify.jobs.options import DenseOptions, check_options, device_when_needed, task_cache
from featurize.base.text import split_names
from featurize.store.reader import open_store

if TYPE_CHECKING:
    from classify.data.samples import Samples
    from classify.model_selection.protocol import OuterFold
    from classify.model_selection.tasks import FittedHead, SearchResult


BUNDLES = Path("artifacts") / "bundles"
Run = Callable[[Sequence[Any]], list[Any]]


def fit(
    store: str | os.PathLike[str],
    *,
    head: str,
    params: Mapping[str, Any] | None = None,
    like: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    order: str | Sequence[str] | None = None,
    jobs: int | None = None,
    seed: int = 0,
    class_weight: str | None = None,
    dense: DenseOptions = DenseOptions(),  # noqa: B008 - frozen
    device: str = "auto",
    gpu_memory: float | None = None,
    join: str | None = None,
    with_examples: bool = False,
    memory: str | None = None,
    fresh: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Fit one head on the train and val images of a store, test it once and write it as a bundle.

    Parameters
    ----------
    store : path-like
    head : str
        A name from ``classify heads``.
    params : mapping, optional
        Hyper-parameters; they take precedence over those of `like`. If neither is given, hyper-parameters are
        searched on grouped folds or on val; a search of an earlier run on this store is read from the cache.
    like : path-like, optional
        A run or a bundle to take the hyper-parameters of this head from, including its class weight and the
        options of the dense head; nothing is searched.
    out : path-like, optional
        The bundle's folder; ``artifacts/bundles/<dataset>/<store>__<head>`` by default.
    order, jobs, seed, class_weight, dense, device, gpu_memory, with_examples, memory, fresh, overwrite,
    on_progress
        As in `classify.compare`.
    join : {"probabilities", "features"}, optional
        As in `classify.compare`; by default the value of `like`, else "probabilities".

    Returns
    -------
    FitResult

    Raises
    ------
    CompareError
        If the head cannot be fitted, or the folder is in use.
    """
    from classify.data.entries import entry_numbers, is_portfolio
    from classify.io.folder import refuse_existing
    from classify.model_selection.cache import cached
    from classify.model_selection.grid_search import ProgressCounter, SearchSettings, fit_task, score_tasks
    from classify.model_selection.parallel import default_jobs
    from classify.model_selection.protocol import final_fold
    from classify.model_selection.tasks import release_workers

    order = None if order is None else split_names(order)
    check_options([head], dense=dense, seed=seed, device=device, gpu_memory=gpu_memory)
    given, class_weight = _given(store, head, params, like=like, class_weight=class_weight, dense=dense)
    settings = SearchSettings(
        seed=seed, class_weight=class_weight, dense_options=asdict(dense), log_folder=None
    )
    (samples,) = load_same_dataset(
        [Path(store)],
        order=order,
        join=join or previous_join(like),
        memory=memory,
        networks=needs_tensorflow([head]),
        jobs=jobs,
        seed=seed,
    )
    require_in_memory(samples, memory, {"--with-examples": with_examples})
    _require_suitable(samples, head)
    if given is not None:
        given = resolve_levels(given, level_names=samples.level_names, store=samples.store)
    folder = Path(out) if out is not None else _default_folder(samples, head)
    refuse_existing(folder, mark=MANIFEST, what="bundle", overwrite=overwrite)
    fold, notes = final_fold(samples, seed=seed, search=given is None)
    options = settings.options(head, n_rows=samples.n_rows(fold.fit))
    tasks = score_tasks(samples, head, fold, settings=settings, options=options)
    run = partial(
        cached,
        cache=task_cache([head], device, fresh=fresh),
        jobs=jobs or default_jobs([samples.search_samples]),
        on_progress=ProgressCounter(len(tasks) + 1, on_progress),
        before_tensorflow=device_when_needed(device, gpu_memory=gpu_memory),
    )
    search = _search_result(samples, head, given, run(tasks), options=options)
    chosen = _all_params(head, search.params, class_weight=class_weight)
    if samples.on_disk is not None:
        release_workers()
    task = fit_task(samples, head, chosen, fold, settings=settings, return_head=True)
    (fitted,) = _require_success(head, run([task]))
    metrics = _metrics(samples, fold, fitted)
    bundle_notes = _write(
        folder,
        store,
        samples,
        head,
        chosen,
        fitted,
        metrics,
        search=search,
        seed=seed,
        with_examples=with_examples,
    )
    return FitResult(
        bundle=folder,
        store=samples.store,
        head=head,
        params=chosen,
        chosen=_origin(samples, search, params=params, like=like),
        cv_balanced_accuracy=search.score,
        metrics=metrics,
        n_train=len(fold.fit),
        n_test=int(entry_numbers(samples, fold.test).max(initial=-1)) + 1,
        fitted_on="images" if samples.n_joined is None else "entries",
        tested_on="entries" if is_portfolio(samples) else "images",
        tune_seconds=search.seconds,
        fit_seconds=fitted.fit_seconds,
        from_cache=fitted.from_cache,
        notes=(*notes, *search.notes, *fitted.notes, *bundle_notes),
        facts=tuple(samples.facts.lines()),
    )


def _require_suitable(samples: Samples, head: str) -> None:
    """Raise CompareError if the head cannot be fitted on rows from disk, or needs ordered classes."""
    from classify.model_selection.tasks import reason_unstreamable

    if reason := reason_unstreamable(samples, head):
        raise CompareError(f"{head}: {reason}")
    require_order(head, samples.classes, ordered=samples.ordered)


def _default_folder(samples: Samples, head: str) -> Path:
    return BUNDLES / folder_name(samples.dataset) / f"{samples.store}__{head}"


def _given(
    store: str | os.PathLike[str],
    head: str,
    params: Mapping[str, Any] | None,
    *,
    like: str | os.PathLike[str] | None,
    class_weight: str | None,
    dense: DenseOptions,
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the given hyper-parameters, None if they must be searched; and the class weight."""
    if params is None and like is None:
        return None, class_weight
    options = asdict(dense) if get_head(head).tensorflow else {}
    previous: dict[str, Any] = {}
    if like is not None:
        previous, weight = previous_params(like, head, store=Path(store).name.removesuffix(".h5"))
        class_weight = class_weight or weight
    merged = {**previous, **(params or {})}
    levels = {"levels": merged["levels"]} if "levels" in merged else {}
    given = {**options, **validate_params(head, without_levels(merged))}
    if get_head(head).tensorflow:
        make_head(head, params=given).check_parameters()
    return {**given, **levels}, class_weight


def _search_result(
    samples: Samples,
    head: str,
    given: Mapping[str, Any] | None,
    scores: list[Any],
    *,
    options: Mapping[str, Any],
) -> SearchResult:
    """Return given hyper-parameters, or those with the best scores."""
    from classify.model_selection.tasks import SearchResult, choose_params, search_points

    if given is not None:
        return SearchResult(params=given, score=None, seconds=0.0)
    points = search_points(head, options, n_levels=len(samples.level_names))
    return choose_params(points, _require_success(head, scores))


def _all_params(head: str, params: Mapping[str, Any], *, class_weight: str | None) -> dict[str, Any]:
    levels = {"levels": params["levels"]} if "levels" in params else {}
    return {**all_params(head, without_levels(params), class_weight=class_weight), **levels}


def _metrics(samples: Samples, fold: OuterFold, fitted: FittedHead) -> dict[str, float | None] | None:
    """Return the metrics on the test images; None if there is no test split."""
    from classify.evaluation.metrics import evaluate
    from classify.io.results import METRICS
    from classify.model_selection.predictions import average_entries

    if not len(fold.test):
        return None
    predictions = average_entries(samples, fold.test, fitted.probabilities)
    metrics = evaluate(predictions.y, predictions.probabilities, classes=samples.classes)
    return {name: metrics[name] for name in METRICS}


def _origin(
    samples: Samples,
    search: SearchResult,
    *,
    params: Mapping[str, Any] | None,
    like: str | os.PathLike[str] | None,
) -> str:
    """Return where the hyper-parameters come from; see `FitResult.chosen`."""
    if like is not None:
        return f"from {os.fspath(like)}" + (", some of them given" if params else "")
    if params is not None:
        return "given"
    if search.score is None:
        return "first grid point"
    return "searched on val" if samples.has_val else "searched in folds"


def _write(
    folder: Path,
    store: str | os.PathLike[str],
    samples: Samples,
    head: str,
    params: Mapping[str, Any],
    fitted: FittedHead,
    metrics: Mapping[str, float | None] | None,
    *,
    search: SearchResult,
    seed: int,
    with_examples: bool,
) -> tuple[str, ...]:
    """Write the bundle; return notes for the user."""
    from classify.io.bundle import PARTS
    from classify.io.bundle_extras import prepare_examples, prepare_weights
    from classify.io.bundle_writer import save_bundle
    from classify.io.folder import new_folder

    assert fitted.saved is not None
    with new_folder(folder, mark=MANIFEST, parts=PARTS) as temporary, open_store(store) as opened:
        extras = temporary / "extras"  # removed below; the bundle has links to its files
        weights, notes = prepare_weights(
            extras, store=samples.store, config=samples.config, created_with=opened.created_with
        )
        examples, more = prepare_examples(extras, samples, opened) if with_examples else (None, ())
        save_bundle(
            temporary,
            fitted.saved,
            head=head,
            params=params,
            samples=samples,
            weights=weights,
            metrics={**(metrics or {}), "cv_balanced_accuracy": search.score},
            seed=seed,
            examples=examples,
        )
        shutil.rmtree(extras, ignore_errors=True)
    return (*notes, *more)


def _require_success(head: str, results: Sequence[Any]) -> Sequence[Any]:
    """Return the results of tasks; raise CompareError if a task failed."""
    from classify.model_selection.grid_search import first_failure

    if reason := first_failure(results):
        raise CompareError(f"{head}: could not be fitted: {reason}")
    return results


def previous_params(
    path: str | os.PathLike[str], head: str, *, store: str
) -> tuple[dict[str, Any], str | None]:
    """Return the hyper-parameters and the class weight of a head of an earlier run.

    Parameters
    ----------
    path : path-like
        A run, or a bundle.
    head : str
        Name of the head.
    store : str
        Name of the store. If the run did not compare the head on this store, its only other store is used.

    Raises
    ------
    CompareError
        If there is no such run or bundle, or it does not contain the hyper-parameters of the head.
    BundleError
        If the bundle is damaged.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["head"] != head:
            raise CompareError(
                f"{folder}: a bundle of head {manifest['head']!r}, expected {head!r}. Give a run or a bundle "
                "of that head with --like"
            )
        params, weight = manifest.get("params"), None
        field = f"{folder / MANIFEST}: 'params'"
    elif (folder / RESULTS).is_file():
        record = read_record(folder)
        params, weight = _params_in_run(record, head, folder=folder, store=store), record.get("class_weight")
        field = f"{folder / RESULTS}: 'bundle_params' of {head}"
    else:
        raise CompareError(
            f"{folder}: neither a run ({RESULTS}) nor a bundle ({MANIFEST}). Make a run with: "
            "classify compare STORE"
        )
    if not isinstance(params, dict):
        raise CompareError(f"{field} is not an object. Give each hyper-parameter with --param")
    weight = params.get("class_weight") or weight
    return {key: value for key, value in params.items() if key != "class_weight"}, weight


def previous_join(path: str | os.PathLike[str] | None) -> str:
    """Return the option `join` of an earlier run or bundle; the default if there is none."""
    if path is None:
        return JOINS[0]
    folder = Path(path)
    previous = read_manifest(folder) if (folder / MANIFEST).is_file() else read_record(folder)
    return str(previous.get("join") or JOINS[0])


def _params_in_run(record: Mapping[str, Any], head: str, *, folder: Path, store: str) -> Any:
    """Return the hyper-parameters of a head in the record of a run."""
    listed = record.get("results")
    results = [result for result in listed if isinstance(result, dict)] if isinstance(listed, list) else []
    of_head = [result for result in results if result.get("head") == head]
    if not of_head:
        heads = ", ".join(dict.fromkeys(str(result.get("head")) for result in results)) or "none"
        raise CompareError(f"{folder}: this run has no head {head!r}; its heads are {heads}. Choose one")
    fitted = [result for result in of_head if result.get("bundle_params") is not None]
    if not fitted:
        raise CompareError(
            f"{folder}: head {head!r} {of_head[0].get('status')}. Give each hyper-parameter with --param"
        )
    matching = [result for result in fitted if result.get("store") == store] or fitted
    if len(matching) > 1:
        stores = ", ".join(str(result.get("store")) for result in matching)
        raise CompareError(
            f"{folder}: {head!r} was compared on {stores}, but not on {store}. Give one of its bundles: "
            f"--like {folder / str(matching[0].get('bundle'))}"
        )
    return matching[0]["bundle_params"]
