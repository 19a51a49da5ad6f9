"""The job of fitting one head for use: hyper-parameters given, taken over or searched; one bundle."""

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
    order: Sequence[str] | None = None,
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
    """Fit one head on a store's train and val images, test it once and write it as a bundle.

    Parameters
    ----------
    store : path-like
    head : str
        A name from ``classify heads``.
    params : mapping, optional
        Hyper-parameters; they win over those of `like`. Where neither is given they are searched on grouped
        folds, or on val; a search that an earlier run has done for this store is not repeated.
    like : path-like, optional
        A run or a bundle whose hyper-parameters for this head are taken over, its class weight and the
        options of its dense head among them; nothing is searched.
    out : path-like, optional
        The bundle's folder; ``artifacts/bundles/<dataset>/<store>__<head>`` by default.
    order, jobs, seed, class_weight, dense, device, gpu_memory, with_examples, memory, fresh, overwrite,
    on_progress
        As in `classify.jobs.compare.compare`.
    join : {"probabilities", "features"}, optional
        As there; by default what `like` averaged over the images of an entry, else the probabilities.

    Returns
    -------
    FitResult

    Raises
    ------
    CompareError
        If the head cannot be fitted, or the folder is taken.
    """
    from classify.data.entries import entry_numbers, is_portfolio
    from classify.io.folder import refuse_existing
    from classify.io.manifest import MANIFEST
    from classify.model_selection.cache import cached
    from classify.model_selection.grid_search import ProgressCounter, SearchSettings, fit_task, score_tasks
    from classify.model_selection.parallel import default_jobs
    from classify.model_selection.protocol import final_fold
    from classify.model_selection.tasks import reason_unstreamable, release_workers

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
    if reason := reason_unstreamable(samples, head):
        raise CompareError(f"{head}: {reason}")
    require_order(head, samples.classes, ordered=samples.ordered)
    if given is not None:
        given = resolve_levels(given, level_names=samples.level_names, store=samples.store)
    place = f"{samples.store}__{head}"
    folder = Path(out) if out is not None else BUNDLES / folder_name(samples.dataset) / place
    refuse_existing(folder, mark=MANIFEST, what="bundle", overwrite=overwrite)
    work, notes = final_fold(samples, seed=seed, search=given is None)
    options = settings.options(head, n_rows=samples.n_rows(work.fit))
    tasks = score_tasks(samples, head, work, settings=settings, options=options)
    run = partial(
        cached,
        cache=task_cache([head], device, fresh=fresh),
        jobs=jobs or default_jobs([samples.search_samples]),
        on_progress=ProgressCounter(len(tasks) + 1, on_progress),
        before_tensorflow=device_when_needed(device, gpu_memory=gpu_memory),
    )
    choice = _chosen(samples, head, given, run(tasks), options=options)
    chosen = _all_params(head, choice.params, class_weight=class_weight)
    if samples.on_disk is not None:
        release_workers()
    (fitted,) = _all_done(
        head, run([fit_task(samples, head, chosen, work, settings=settings, return_head=True)])
    )
    metrics = _metrics(samples, work, fitted)
    more = _write(
        folder,
        store,
        samples,
        head,
        chosen,
        fitted,
        metrics,
        choice=choice,
        seed=seed,
        with_examples=with_examples,
    )
    return FitResult(
        bundle=folder,
        store=samples.store,
        head=head,
        params=chosen,
        chosen=_origin(samples, choice, params=params, like=like),
        cv_balanced_accuracy=choice.score,
        metrics=metrics,
        n_train=len(work.fit),
        n_test=int(entry_numbers(samples, work.test).max(initial=-1)) + 1,
        fitted_on="images" if samples.n_joined is None else "entries",
        tested_on="entries" if is_portfolio(samples) else "images",
        tune_seconds=choice.seconds,
        fit_seconds=fitted.fit_seconds,
        from_cache=fitted.from_cache,
        notes=(*notes, *choice.notes, *fitted.notes, *more),
        facts=tuple(samples.facts.lines()),
    )


def _given(
    store: str | os.PathLike[str],
    head: str,
    params: Mapping[str, Any] | None,
    *,
    like: str | os.PathLike[str] | None,
    class_weight: str | None,
    dense: DenseOptions,
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the hyper-parameters that need no search, None where nothing says any; and the class weight."""
    if params is None and like is None:
        return None, class_weight
    options = asdict(dense) if get_head(head).tensorflow else {}
    found: dict[str, Any] = {}
    if like is not None:
        found, weight = previous_params(like, head, store=Path(store).name.removesuffix(".h5"))
        class_weight = class_weight or weight
    both = {**found, **(params or {})}
    levels = {"levels": both["levels"]} if "levels" in both else {}
    given = {**options, **validate_params(head, without_levels(both))}
    if get_head(head).tensorflow:
        make_head(head, params=given).check_parameters()
    return {**given, **levels}, class_weight


def _chosen(
    samples: Samples,
    head: str,
    given: Mapping[str, Any] | None,
    outcomes: list[Any],
    *,
    options: Mapping[str, Any],
) -> SearchResult:
    from classify.model_selection.tasks import SearchResult, choose_params, search_points

    if given is not None:
        return SearchResult(params=given, score=None, seconds=0.0)
    points = search_points(head, options, n_levels=len(samples.level_names))
    return choose_params(points, _all_done(head, outcomes))


def _all_params(head: str, params: Mapping[str, Any], *, class_weight: str | None) -> dict[str, Any]:
    levels = {"levels": params["levels"]} if "levels" in params else {}
    return {**all_params(head, without_levels(params), class_weight=class_weight), **levels}


def _metrics(samples: Samples, work: OuterFold, fitted: FittedHead) -> dict[str, float | None] | None:
    from classify.evaluation.metrics import evaluate
    from classify.io.results import METRICS
    from classify.model_selection.predictions import average_entries

    if not len(work.test):
        return None
    found = average_entries(samples, work.test, fitted.probabilities)
    figures = evaluate(found.y, found.probabilities, classes=samples.classes)
    return {name: figures[name] for name in METRICS}


def _origin(
    samples: Samples,
    choice: SearchResult,
    *,
    params: Mapping[str, Any] | None,
    like: str | os.PathLike[str] | None,
) -> str:
    if like is not None:
        return f"from {os.fspath(like)}" + (", and given" if params else "")
    if params is not None:
        return "given"
    if choice.score is None:
        return "the first of the grid"
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
    choice: SearchResult,
    seed: int,
    with_examples: bool,
) -> tuple[str, ...]:
    """Write the bundle; return what the user should know."""
    from classify.io.bundle import PARTS
    from classify.io.bundle_extras import carry_examples, carry_weights
    from classify.io.bundle_writer import save_bundle
    from classify.io.folder import new_folder
    from classify.io.manifest import MANIFEST

    assert fitted.saved is not None
    with new_folder(folder, mark=MANIFEST, parts=PARTS) as temporary, open_store(store) as opened:
        kept = temporary / "kept"
        weights, notes = carry_weights(
            kept, store=samples.store, config=samples.config, created_with=opened.created_with
        )
        examples, more = carry_examples(kept, samples, opened) if with_examples else (None, ())
        save_bundle(
            temporary,
            fitted.saved,
            head=head,
            params=params,
            samples=samples,
            weights=weights,
            metrics={**(metrics or {}), "cv_balanced_accuracy": choice.score},
            seed=seed,
            examples=examples,
        )
        shutil.rmtree(kept, ignore_errors=True)
    return (*notes, *more)


def _all_done(head: str, outcomes: Sequence[Any]) -> Sequence[Any]:
    from classify.model_selection.grid_search import first_failure

    if reason := first_failure(outcomes):
        raise CompareError(f"{head}: could not be fitted: {reason}")
    return outcomes


def previous_params(
    path: str | os.PathLike[str], head: str, *, store: str
) -> tuple[dict[str, Any], str | None]:
    """Return the hyper-parameters and the class weight that a head was fitted with.

    Parameters
    ----------
    path : path-like
        A run, or a bundle.
    head : str
        Which head of it.
    store : str
        Of a run on several stores, the one to look at; another where the head was compared on one only.

    Raises
    ------
    CompareError
        If there is no such run or bundle, or it does not say which hyper-parameters the head had.
    BundleError
        If the bundle is damaged.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["head"] != head:
            raise CompareError(
                f"{folder}: the bundle of a {manifest['head']!r}, not of a {head!r}. Name a run or a bundle "
                "of that head with --like"
            )
        params, weight = manifest.get("params"), None
        what = f"{folder / MANIFEST}: 'params'"
    elif (folder / RESULTS).is_file():
        record = read_record(folder)
        params, weight = _of_run(record, head, folder=folder, store=store), record.get("class_weight")
        what = f"{folder / RESULTS}: 'bundle_params' of {head}"
    else:
        raise CompareError(
            f"{folder}: neither a run ({RESULTS}) nor a bundle ({MANIFEST}). Make a run with: "
            "classify compare STORE"
        )
    if not isinstance(params, dict):
        raise CompareError(f"{what} is not an object. Make it anew, or give each with --param")
    weight = params.get("class_weight") or weight
    return {key: value for key, value in params.items() if key != "class_weight"}, weight


def previous_join(path: str | os.PathLike[str] | None) -> str:
    """Return what an earlier run or bundle averaged over the images of an entry; without one the default."""
    if path is None:
        return JOINS[0]
    folder = Path(path)
    known = read_manifest(folder) if (folder / MANIFEST).is_file() else read_record(folder)
    return str(known.get("join") or JOINS[0])


def _of_run(record: Mapping[str, Any], head: str, *, folder: Path, store: str) -> Any:
    results = record.get("results")
    known = [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []
    mine = [result for result in known if result.get("head") == head]
    if not mine:
        heads = ", ".join(dict.fromkeys(str(result.get("head")) for result in known)) or "none"
        raise CompareError(f"{folder}: this run has no {head!r}: its heads are {heads}. Choose one of them")
    fitted = [result for result in mine if result.get("bundle_params") is not None]
    if not fitted:
        raise CompareError(f"{folder}: {head!r} {mine[0].get('status')}. Give each value with --param")
    same = [result for result in fitted if result.get("store") == store] or fitted
    if len(same) > 1:
        stores = ", ".join(str(result.get("store")) for result in same)
        raise CompareError(
            f"{folder}: {head!r} was compared on {stores}, but not on {store}. Name one of its bundles: "
            f"--like {folder / str(same[0].get('bundle'))}"
        )
    return same[0]["bundle_params"]
