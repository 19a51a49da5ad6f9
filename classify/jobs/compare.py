"""The job: tune, fit and test every head on every store, and keep what can grade new images."""

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
from classify.io.folder import folder_name, new_folder, place_logs, refuse_existing
from classify.jobs.options import (
    CALIBRATIONS,
    DenseOptions,
    check_options,
    dask_jobs,
    device_when_needed,
    task_cache,
)
from featurize.base.dask_cluster import check_dask
from featurize.errors import FolioError

if TYPE_CHECKING:
    from classify.data.samples import Samples
    from classify.io.results import Comparison
    from classify.model_selection.grid_search import CandidateResult
    from classify.model_selection.protocol import EvaluationProtocol


RUNS = Path("artifacts") / "runs"


def compare(
    stores: Sequence[str | os.PathLike[str]],
    *,
    heads: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    order: Sequence[str] | None = None,
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
    study: Sequence[str] = (),
    report: bool = True,
    with_examples: bool = False,
    memory: str | None = None,
    fresh: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Comparison:
    """Tune, fit and test every head on every store, by the rules of "Comparing heads" in CONTRIBUTING.md.

    TensorBoard logs of the dense head go to ``artifacts/tensorboard/<run>`` beside ``artifacts/runs/<run>``,
    and to ``tensorboard/`` within a run folder that is not in a folder called ``runs``.

    Parameters
    ----------
    stores : sequence of path-like
        Stores of one data set, made by ``featurize extract``.
    heads : sequence of str, optional
        Names from ``classify heads``; "all" of them; "ensemble" adds the vote of the best. By default the
        usual ones, with those that know an order where the classes have one. The majority-class baseline
        always joins them.
    out : path-like, optional
        The run folder; ``artifacts/runs/<dataset>`` by default.
    order : sequence of str, optional
        The classes from worst to best: makes them ordered.
    jobs : int, optional
        Processes; by default one a core, or one in all where there is little to do. Results do not
        depend on it.
    dask : str, optional
        A Dask scheduler's address, whose workers do the work, or "local:N" for N of them on this machine;
        in the place of `jobs`. Results do not depend on it. Networks are trained on CPUs there, unless
        `device` names GPUs.
    seed : int
        Of folds and heads.
    class_weight : {None, "balanced"}
        Whether each class weighs the same whatever its number of images.
    dense : DenseOptions
    device : str
        ``auto``, ``cpu``, ``gpu`` or ``gpu:N``; for the dense head, which takes the first of several GPUs.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take; grows on demand by default.
    join : {"probabilities", "features"}
        What is averaged over the images of an entry that has several: figures are those of whole entries.
    fuse : bool
        Whether the features of all stores side by side are compared as one more store.
    calibrate : {"none", "temperature"}
        Whether each head's probabilities are scaled by a temperature fitted on held out training images.
    study : sequence of str
        Studies of the training images: names from `classify.evaluation.studies.STUDIES`, or "all".
    report : bool
        Whether ``report.html``, ``leaderboard.md`` and ``figures/`` are written as well.
    with_examples : bool
        Whether bundles carry thumbnails, file names and features of the images that they were fitted on.
    memory : str, optional
        As much as may be taken, such as "4GB". Where the features do not fit, heads are fitted on rows read
        from disk, block by block, and hyper-parameters searched on a sample; the record says so.
    fresh : bool
        Compute everything, also what an earlier run has done on equal data with equal settings.
    overwrite : bool
        Replace an earlier run in the same folder.
    on_progress : callable, optional
        Called with (done, total) tasks.
    on_note : callable, optional
        Called with a line worth showing, such as a Dask worker that is left out.

    Returns
    -------
    Comparison
        The run's folder and its record, as in ``results.json``.

    Raises
    ------
    CompareError
        If the stores are not of one data set, a class has too few groups, or the folder is taken.
    """
    given, started = dict(locals()), time.perf_counter()
    from classify.data.load import load_same_dataset, require_in_memory
    from classify.evaluation.studies import resolve_studies, run_studies
    from classify.io.provenance import run_provenance
    from classify.io.results import PARTS, RESULTS, Comparison
    from classify.jobs.record import make_record, write_run
    from classify.model_selection.grid_search import SearchSettings, run_candidates
    from classify.model_selection.parallel import default_jobs
    from classify.model_selection.protocol import make_protocol

    asked, studies = validate_heads(heads), resolve_studies(study)
    if calibrate not in CALIBRATIONS:
        raise CompareError(f"calibrate is {calibrate!r}: expected {' or '.join(CALIBRATIONS)}")
    check_options(asked, dense=dense, seed=seed, device=device, gpu_memory=gpu_memory)
    if dask is not None:
        check_dask(dask)
        device = "cpu" if device == "auto" else device
    paths = list(dict.fromkeys(Path(store) for store in stores))
    samples = load_same_dataset(
        paths,
        order=order,
        join=join,
        fuse=fuse,
        memory=memory,
        networks=needs_tensorflow(asked),
        jobs=jobs,
        seed=seed,
    )
    require_in_memory(
        samples[0], memory, {"--study": bool(studies), "--with-examples": with_examples, "--dask": bool(dask)}
    )
    folder = Path(out) if out is not None else RUNS / folder_name(samples[0].dataset)
    refuse_existing(folder, mark=RESULTS, what="run", overwrite=overwrite)
    names = select_heads(asked, classes=samples[0].classes, ordered=samples[0].ordered, n_stores=len(samples))
    protocol = make_protocol(samples[0], seed=seed)
    with ExitStack() as stack:
        temporary = stack.enter_context(new_folder(folder, mark=RESULTS, parts=PARTS))
        settings = SearchSettings(
            seed=seed,
            class_weight=class_weight,
            dense_options=asdict(dense),
            log_folder=temporary / "tensorboard",
        )
        running: dict[str, Any] = {
            "settings": settings,
            "jobs": (
                jobs or default_jobs([one.search_samples for one in samples])
                if dask is None
                else dask_jobs(dask, device=device, gpu_memory=gpu_memory, stack=stack, note=on_note)
            ),
            "cache": task_cache(names, device, fresh=fresh),
            "before_tensorflow": device_when_needed(device, gpu_memory=gpu_memory),
            "on_progress": on_progress,
        }
        candidates = run_candidates(samples, names, protocol, **running)
        candidates = _afterwards(
            candidates,
            protocol,
            calibrate=calibrate,
            ensemble=bool({ALL, ENSEMBLE} & set(asked)),
            running=running,
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
            studies, candidates, protocol, recommended=record["recommended"], folder=temporary, **running
        )
        record["made"] = run_provenance(compare, given, stores=paths, seconds=time.perf_counter() - started)
        write_run(temporary, record, candidates, protocol)
        tensorboard = place_logs(temporary, folder)
    page, notes = _reported(folder, samples[0]) if report else (None, ())
    return Comparison(folder=folder, record=record, tensorboard=tensorboard, report=page, notes=notes)


def _reported(folder: Path, samples: Samples) -> tuple[Path | None, tuple[str, ...]]:
    """Write a run's report; return where it is, None where that failed, and what it could not show."""
    from classify.report.report import make_report

    if samples.on_disk is not None:
        return None, (
            "no report: its map and galleries look at features in memory. Where these fit, type: "
            f"classify report {folder}",
        )
    try:
        made = make_report(folder)
    except (FolioError, OSError) as error:  # the run is not lost for want of its report
        return None, (f"no report: {error}",)
    return made.path, made.notes


def _afterwards(
    candidates: list[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    calibrate: str,
    ensemble: bool,
    running: Mapping[str, Any],
) -> list[CandidateResult]:
    """Return candidates with all that is made of several, or of one more fit in each fold."""
    if calibrate == "none" and not ensemble:
        return candidates
    from classify.model_selection.calibration import apply_temperatures
    from classify.model_selection.ensemble import make_ensemble
    from classify.model_selection.grid_search import make_runner

    settings = running["settings"]
    run = make_runner(**{name: value for name, value in running.items() if name != "settings"})
    if calibrate == "temperature":
        candidates = apply_temperatures(candidates, protocol, settings=settings, run=run)
    voted = make_ensemble(candidates, protocol, settings=settings, run=run) if ensemble else None
    return candidates if voted is None else [*candidates[:-1], voted, candidates[-1]]
