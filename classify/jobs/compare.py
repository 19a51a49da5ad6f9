"""The job of ``classify compare``: tune, fit and test heads on stores, and write the run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.errors import CompareError
from classify.heads.select import ALL, ENSEMBLE, needs_tensorflow, select_heads, validate_heads
from classify.io.folder import folder_name, move_logs, new_folder, refuse_existing
from classify.jobs.options import (
    CALIBRATIONS,
    DenseOptions,
    check_options,
    dask_jobs,
    device_when_needed,
    task_cache,
)
from featurize.base.files import as_paths
from featurize.base.text import as_names, split_names
from featurize.errors import FolioError

if TYPE_CHECKING:
    from classify.data.samples import Samples
    from classify.io.results import Comparison
    from classify.model_selection.grid_search import CandidateResult
    from classify.model_selection.protocol import EvaluationProtocol


RUNS = Path("artifacts") / "runs"


def compare(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    heads: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    order: str | Sequence[str] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    seed: int = 0,
    class_weight: str | None = None,
    dense: DenseOptions = DenseOptions(),  # noqa: B008 - frozen
    device: str = "auto",
    gpu_memory: float | None = None,
    join: str = "probabilities",
    fuse: bool = False,
    calibrate: str = "none",
    study: str | Sequence[str] = (),
    report: bool = True,
    with_examples: bool = False,
    memory: str | None = None,
    fresh: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Comparison:
    """Tune, fit and test heads on stores, by the rules of "Comparing heads" in CONTRIBUTING.md.

    TensorBoard logs of the dense head are written to ``artifacts/tensorboard/<run>`` for a run in
    ``artifacts/runs/<run>``, and to ``tensorboard/`` in the run folder if that is not in a folder called
    ``runs``.

    Parameters
    ----------
    stores : path-like or sequence of path-like
        Stores of one data set, written by ``featurize extract``.
    heads : str or sequence of str, optional
        Names from ``classify heads``; "all" for all of them; "ensemble" adds a soft-voting ensemble of the
        best heads. By default the usual heads, and their ordinal counterparts if the classes are ordered. The
        majority-class baseline is always included.
    out : path-like, optional
        The run folder; ``artifacts/runs/<dataset>`` by default.
    order : str or sequence of str, optional
        All classes from worst to best, as a sequence or comma-separated; the classes are then ordered.
    jobs : int, optional
        Number of processes. By default one per core, or a single one for small data sets. Results do not
        depend on it.
    dask : str, optional
        Address of a Dask scheduler whose workers run the tasks, or "local:N" for N workers on this machine;
        replaces `jobs`. Results do not depend on it. Networks are trained on the CPUs of the workers, unless
        `device` names GPUs.
    seed : int
        Seed of folds and heads.
    class_weight : {None, "balanced"}
        "balanced": all classes have the same weight, whatever their number of images.
    dense : DenseOptions
        Options of the dense head.
    device : str
        ``auto``, ``cpu``, ``gpu`` or ``gpu:N``: device of the dense head, which uses the first of several
        GPUs.
    gpu_memory : float, optional
        Fraction of the GPU's memory to reserve; by default memory grows on demand.
    join : {"probabilities", "features"}
        What is averaged over the images of an entry. Metrics are computed per entry.
    fuse : bool
        Compare the concatenated features of all stores too, as one more store.
    calibrate : {"none", "temperature"}
        "temperature": scale the probabilities of each head by a temperature fitted on held-out training
        images.
    study : str or sequence of str
        Studies on the training images: names from `classify.evaluation.studies.STUDIES`, or "all".
    report : bool
        Write ``report.html``, ``leaderboard.md`` and ``figures/`` too.
    with_examples : bool
        Add thumbnails, file names and features of the fitted images to the bundles.
    memory : str, optional
        Memory limit, such as "4GB". If the features do not fit, heads are fitted on rows that are read from
        disk block by block, and hyper-parameters are searched on a sample; results.json has a note.
    fresh : bool
        Compute everything, without results from the cache of earlier runs.
    overwrite : bool
        Replace an earlier run in the same folder.
    on_progress : callable, optional
        Called with (done, total) tasks.
    on_note : callable, optional
        Called with notes for the user during the run, such as a Dask worker that is not used.

    Returns
    -------
    Comparison
        The run folder and the content of ``results.json``.

    Raises
    ------
    CompareError
        If the stores are of different data sets, a class has too few groups, or the folder is in use.
    """
    stores = as_paths(stores)
    order = None if order is None else split_names(order)
    heads = None if heads is None else as_names(heads)
    study = as_names(study)
    given, started = dict(locals()), time.perf_counter()
    from classify.data.load import load_same_dataset, require_in_memory
    from classify.evaluation.studies import resolve_studies, run_studies
    from classify.io.provenance import run_provenance
    from classify.io.results import PARTS, RESULTS, Comparison
    from classify.jobs.record import make_record, write_run
    from classify.model_selection.grid_search import SearchSettings, run_candidates
    from classify.model_selection.parallel import default_jobs
    from classify.model_selection.protocol import make_protocol

    requested, studies = validate_heads(heads), resolve_studies(study)
    if calibrate not in CALIBRATIONS:
        raise CompareError(f"calibrate is {calibrate!r}: expected {' or '.join(CALIBRATIONS)}")
    check_options(requested, dense=dense, seed=seed, device=device, gpu_memory=gpu_memory)
    device = _checked_device(dask, device)
    paths = list(dict.fromkeys(stores))
    loading: dict[str, Any] = {"order": order, "join": join, "fuse": fuse, "memory": memory, "jobs": jobs}
    samples = load_same_dataset(paths, networks=needs_tensorflow(requested), seed=seed, **loading)
    require_in_memory(
        samples[0], memory, {"--study": bool(studies), "--with-examples": with_examples, "--dask": bool(dask)}
    )
    folder = Path(out) if out is not None else RUNS / folder_name(samples[0].dataset)
    refuse_existing(folder, mark=RESULTS, what="run", overwrite=overwrite)
    names = select_heads(
        requested, classes=samples[0].classes, ordered=samples[0].ordered, n_stores=len(samples)
    )
    protocol = make_protocol(samples[0], seed=seed)
    with ExitStack() as stack:
        temporary = stack.enter_context(new_folder(folder, mark=RESULTS, parts=PARTS))
        settings = SearchSettings(
            seed=seed,
            class_weight=class_weight,
            dense_options=asdict(dense),
            log_folder=temporary / "tensorboard",
        )
        run_options: dict[str, Any] = {
            "settings": settings,
            "jobs": (
                jobs or default_jobs([store.search_samples for store in samples])
                if dask is None
                else dask_jobs(dask, device=device, gpu_memory=gpu_memory, stack=stack, note=on_note)
            ),
            "cache": task_cache(names, device, fresh=fresh),
            "before_tensorflow": device_when_needed(device, gpu_memory=gpu_memory),
            "on_progress": on_progress,
        }
        candidates = run_candidates(samples, names, protocol, **run_options)
        candidates = _post_process(
            candidates,
            protocol,
            calibrate=calibrate,
            ensemble=bool({ALL, ENSEMBLE} & set(requested)),
            run_options=run_options,
        )
        record = make_record(
            candidates,
            protocol,
            paths=paths,
            settings=settings,
            folder=temporary,
            with_examples=with_examples,
        )
        record["studies"] = run_studies(
            studies, candidates, protocol, recommended=record["recommended"], folder=temporary, **run_options
        )
        record["made"] = run_provenance(compare, given, stores=paths, seconds=time.perf_counter() - started)
        write_run(temporary, record, candidates, protocol)
        tensorboard = move_logs(temporary, folder)
    page, notes = _write_report(folder, samples[0]) if report else (None, ())
    return Comparison(folder=folder, record=record, tensorboard=tensorboard, report=page, notes=notes)


def _checked_device(dask: str | None, device: str) -> str:
    """Check the address of a cluster and return the device: on a cluster "auto" is the CPU."""
    if dask is None:
        return device
    from featurize.base.dask_cluster import check_dask

    check_dask(dask)
    return "cpu" if device == "auto" else device


def _write_report(folder: Path, samples: Samples) -> tuple[Path | None, tuple[str, ...]]:
    """Write the report of a run; return its path, None if that failed, and notes for the user."""
    from classify.report.report import make_report

    if samples.on_disk is not None:
        return None, (
            "no report, because its map and its galleries need the features in memory. On a machine with "
            f"enough memory: classify report {folder}",
        )
    try:
        written = make_report(folder)
    except (FolioError, OSError) as error:  # a finished run must not be lost because of its report
        return None, (f"no report: {error}",)
    return written.path, written.notes


def _post_process(
    candidates: list[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    calibrate: str,
    ensemble: bool,
    run_options: Mapping[str, Any],
) -> list[CandidateResult]:
    """Return candidates with temperature scaling and the ensemble, if these are requested."""
    if calibrate == "none" and not ensemble:
        return candidates
    from classify.model_selection.calibration import apply_temperatures
    from classify.model_selection.ensemble import make_ensemble
    from classify.model_selection.grid_search import make_runner

    settings = run_options["settings"]
    run = make_runner(**{name: value for name, value in run_options.items() if name != "settings"})
    if calibrate == "temperature":
        candidates = apply_temperatures(candidates, protocol, settings=settings, run=run)
    combined = make_ensemble(candidates, protocol, settings=settings, run=run) if ensemble else None
    return candidates if combined is None else [*candidates[:-1], combined, candidates[-1]]  # baseline last
