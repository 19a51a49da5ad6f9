"""The job: tune, fit and test every head on every store, and keep what can grade new images."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.head_choice import ALL, ENSEMBLE, known_heads, suitable_heads
from classify.heads import HEADS, get_head, make_head
from featurize import CompareError, ConfigError, FolioError, check_dask, connect_cluster

if TYPE_CHECKING:
    from classify.protocol import Plan
    from classify.recall import Memory
    from classify.results import Comparison
    from classify.samples import Samples
    from classify.search import Trial
    from classify.spreading import DaskJobs

CALIBRATIONS = ("none", "temperature")
RUNS = Path("artifacts") / "runs"
MAX_SEED = 2**32 - 1  # NumPy's and scikit-learn's limit


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """What can be said of the dense head; the defaults are the tutorial's."""

    units: tuple[int, ...] = (512, 128, 64)
    dropout: float = 0.2
    learning_rate: float = 1e-3
    epochs: int = 300
    batch_size: int = 128
    patience: int = 30


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
    dense: DenseOptions = DenseOptions(),
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
        What else to find out from the training images: names from `classify.studies.STUDIES`, or "all".
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
    from classify.folder import new_folder, refuse_existing
    from classify.made import how_made
    from classify.protocol import make_plan
    from classify.record import make_record, write_run
    from classify.results import PARTS, RESULTS, Comparison
    from classify.running import default_jobs
    from classify.search import Settings, run_trials
    from classify.studies import known_studies, run_studies

    asked, studies = known_heads(heads), known_studies(study)
    if calibrate not in CALIBRATIONS:
        raise CompareError(f"calibrate is {calibrate!r}: expected {' or '.join(CALIBRATIONS)}")
    check_options(asked, dense=dense, seed=seed, device=device, gpu_memory=gpu_memory)
    if dask is not None:
        check_dask(dask)
        device = "cpu" if device == "auto" else device
    paths = list(dict.fromkeys(Path(store) for store in stores))
    samples = load_same_dataset(
        paths, order=order, join=join, fuse=fuse, memory=memory, heads=asked, jobs=jobs, seed=seed
    )
    refuse_stored(
        samples[0], memory, {"--study": bool(studies), "--with-examples": with_examples, "--dask": bool(dask)}
    )
    folder = Path(out) if out is not None else RUNS / folder_name(samples[0].dataset)
    refuse_existing(folder, mark=RESULTS, what="run", overwrite=overwrite)
    names = suitable_heads(
        asked, classes=samples[0].classes, ordered=samples[0].ordered, n_stores=len(samples)
    )
    plan = make_plan(samples[0], seed=seed)
    with ExitStack() as stack:
        temporary = stack.enter_context(new_folder(folder, mark=RESULTS, parts=PARTS))
        settings = Settings(
            seed=seed,
            class_weight=class_weight,
            dense_options=asdict(dense),
            log_folder=temporary / "tensorboard",
        )
        running: dict[str, Any] = {
            "settings": settings,
            "jobs": (
                jobs or default_jobs([one.for_search for one in samples])
                if dask is None
                else dask_jobs(dask, device=device, gpu_memory=gpu_memory, stack=stack, note=on_note)
            ),
            "memory": memory_of(names, device, fresh=fresh),
            "before_tensorflow": device_when_needed(device, gpu_memory=gpu_memory),
            "on_progress": on_progress,
        }
        trials = run_trials(samples, names, plan, **running)
        trials = _afterwards(
            trials, plan, calibrate=calibrate, ensemble=bool({ALL, ENSEMBLE} & set(asked)), running=running
        )
        record = make_record(
            trials, plan, paths=paths, settings=settings, folder=temporary, with_examples=with_examples
        )
        record["studies"] = run_studies(
            studies, trials, plan, recommended=record["recommended"], folder=temporary, **running
        )
        record["made"] = how_made(compare, given, stores=paths, seconds=time.perf_counter() - started)
        write_run(temporary, record, trials, plan)
        tensorboard = place_logs(temporary, folder)
    page, notes = _reported(folder, samples[0]) if report else (None, ())
    return Comparison(folder=folder, record=record, tensorboard=tensorboard, report=page, notes=notes)


def _reported(folder: Path, samples: Samples) -> tuple[Path | None, tuple[str, ...]]:
    """Write a run's report; return where it is, None where that failed, and what it could not show."""
    from classify.report.making import make_report

    if samples.stored is not None:
        return None, (
            "no report: its map and galleries look at features in memory. Where these fit, type: "
            f"classify report {folder}",
        )
    try:
        made = make_report(folder)
    except (FolioError, OSError) as error:  # the run is not lost for want of its report
        return None, (f"no report: {error}",)
    return made.path, made.notes


def refuse_stored(samples: Samples, memory: str | None, asked: Mapping[str, bool]) -> None:
    """Raise where features stay on disk and an option that is set needs them in memory.

    Raises
    ------
    CompareError
        For the first of them.
    """
    for option in (name for name, is_set in asked.items() if is_set and samples.stored is not None):
        raise CompareError(
            f"{option} needs features in memory, and these do not fit in --memory {memory}. Leave {option} "
            "out, or raise --memory"
        )


def _afterwards(
    trials: list[Trial], plan: Plan, *, calibrate: str, ensemble: bool, running: Mapping[str, Any]
) -> list[Trial]:
    """Return trials with all that is made of several, or of one more fit in each fold."""
    if calibrate == "none" and not ensemble:
        return trials
    from classify.ensemble import make_ensemble
    from classify.search import runner
    from classify.tempering import temper

    settings = running["settings"]
    run = runner(**{name: value for name, value in running.items() if name != "settings"})
    if calibrate == "temperature":
        trials = temper(trials, plan, settings=settings, run=run)
    voted = make_ensemble(trials, plan, settings=settings, run=run) if ensemble else None
    return trials if voted is None else [*trials[:-1], voted, trials[-1]]


def check_options(
    heads: Sequence[str], *, dense: DenseOptions, seed: int, device: str, gpu_memory: float | None
) -> None:
    """Raise at once what would otherwise be found after minutes, or never.

    Raises
    ------
    CompareError
        If the seed or an option of the dense head is out of range.
    ConfigError
        If the device or the share of its memory is not written as one.
    """
    if not 0 <= seed <= MAX_SEED:
        raise CompareError(f"seed is {seed}: expected a whole number from 0 to {MAX_SEED}")
    check_device(device, gpu_memory=gpu_memory)
    for name in heads or HEADS:
        if name in HEADS and get_head(name).tensorflow:
            make_head(name, params=asdict(dense)).check_parameters()


def dask_jobs(
    dask: str,
    *,
    device: str,
    gpu_memory: float | None,
    stack: ExitStack,
    note: Callable[[str], None] | None,
) -> DaskJobs:
    """Return the workers of a cluster, connected for as long as the stack is open."""
    from classify.spreading import DaskJobs

    cluster = stack.enter_context(connect_cluster(dask, note=note or (lambda text: None)))
    return DaskJobs(cluster=cluster, device=device, gpu_memory=gpu_memory)


def check_device(device: str, *, gpu_memory: float | None) -> None:
    """Raise ConfigError unless both are written as they should be, whatever the machine has."""
    from featurize import parse_device

    parse_device(device)
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")


def load_same_dataset(
    paths: Sequence[Path],
    *,
    order: Sequence[str] | None,
    join: str = "probabilities",
    fuse: bool = False,
    memory: str | None = None,
    heads: Sequence[str] | None = None,
    jobs: int | None = None,
    seed: int = 0,
) -> list[Samples]:
    """Load stores of one data set; images grouped in any of them are grouped in all; a fused one comes last.

    Features that do not fit in `memory` beside what `heads` need, in so many processes, stay on disk.

    Raises
    ------
    CompareError
        If they are of different data sets, or two have one name, or one alone is to be fused.
    """
    from classify.alike import check_same_images, join_groups
    from classify.fusion import fuse as fused
    from classify.memory_limit import cores, settle_memory
    from classify.portfolios import settle_join
    from classify.samples import load_samples

    if not paths:
        raise CompareError("no store to compare. Make one with: featurize extract DATA")
    for path in paths:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.h5"))
            shown = ", ".join(inside[:10]) + (f" and {len(inside) - 10} more" if len(inside) > 10 else "")
            what = f"stores in it: {shown}. Name one or more of them" if inside else "no .h5 file in it"
            raise CompareError(f"{path}: a folder, where a store is expected; {what}")
    working = settle_memory(paths, memory=memory, heads=heads, jobs=jobs, join=join, fuse=fuse)
    check_same_images(paths)
    samples = [load_samples(path, order=order, working_bytes=working) for path in paths]
    for other, path in zip(samples[1:], paths[1:], strict=True):
        if other.classes != samples[0].classes:
            raise CompareError(
                f"{path}: its classes are {', '.join(other.classes)}, but those of {paths[0]} are "
                f"{', '.join(samples[0].classes)}. Give one order for "
                f"both: --order {','.join(samples[0].classes)}"
            )
    samples = join_groups(samples)
    if working is not None and memory is not None:
        from classify.streaming import with_samples

        samples = with_samples(samples, memory=memory, jobs=jobs or cores(), seed=seed)
    if fuse:
        samples.append(fused(samples))
    return [settle_join(one, join) for one in samples]


def folder_name(dataset: str) -> str:
    """Return a data set's name as the name of a folder."""
    return dataset.strip().replace(os.sep, "-").lstrip(".") or "dataset"


def memory_of(heads: Sequence[str], device: str, *, fresh: bool) -> Memory:
    """Return where outcomes of earlier runs are kept, and where those of TensorFlow heads are computed."""
    from classify.recall import Memory
    from featurize import cache_folder, gpus

    asked = device != "cpu" and any(get_head(head).tensorflow for head in heads)
    there = [gpu.capability for gpu in gpus()] if asked else []
    place = f"{device} of {there}" if there or device not in ("auto", "cpu") else "cpu"
    return Memory(folder=cache_folder("tuning"), device=place, fresh=fresh)


def device_when_needed(device: str, *, gpu_memory: float | None) -> Callable[[], object]:
    """Return what settles, once, where the dense head runs: to be called before TensorFlow starts."""

    def settle() -> None:
        from featurize import use_device

        use_device(device, gpu_memory=gpu_memory)

    return cache(settle)


def place_logs(temporary: Path, folder: Path) -> Path | None:
    """Move TensorBoard logs beside the runs, if the run is in a folder of runs; return where they will be."""
    logs = temporary / "tensorboard"
    if not logs.is_dir():
        return None
    if folder.absolute().parent.name != "runs":
        return folder / "tensorboard"
    target = folder.parent.parent / "tensorboard" / folder.name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError:  # a finished run is not lost for want of a place for its curves
        return folder / "tensorboard"
    for made in sorted(logs.iterdir()):
        shutil.rmtree(target / made.name, ignore_errors=True)
        shutil.move(made, target / made.name)
    logs.rmdir()
    return target
