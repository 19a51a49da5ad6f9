"""Cache of task results: a task that an earlier run has computed on equal data is not run again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from classify.data.entries import entry_numbers, has_repeats
from classify.data.levels import levels_of, without_levels
from classify.data.samples import Samples
from classify.heads.registry import all_params, get_head
from classify.io.head_file import SavedHead
from classify.io.results import plain_json
from classify.model_selection.parallel import Executor, Failure, run_tasks
from classify.model_selection.tasks import FitTask, FittedHead, GridScores, ScoreTask
from featurize._version import __version__
from featurize.base.cache import CacheEntry, read_cache_entry, trim_cache, write_cache_entry
from featurize.base.project import installed_versions, sources_digest
from featurize.base.typing import IntArray

LIMIT = 1 << 30  # bytes of the whole cache; the entries used longest ago are removed first
_ENDING = ".outcome"
_HEAD, _LOGS = "head", "logs/"  # names of the parts of a cache entry


@dataclass(frozen=True, kw_only=True)
class TaskCache:
    """The cache of task results that runs share."""

    folder: Path
    device: str  # device of TensorFlow heads, as far as it can be told without importing TensorFlow
    fresh: bool = False  # write to the cache, but do not read from it


@dataclass(frozen=True, kw_only=True)
class _CachingTask:
    """A task that writes its result to the cache in the process that runs it.

    So a run that is stopped loses no finished task.
    """

    task: ScoreTask | FitTask
    key: str
    folder: Path

    @property
    def head(self) -> str:
        return self.task.head

    @property
    def n_points(self) -> int:
        return self.task.n_points

    def run(self) -> GridScores | FittedHead:
        result = self.task.run()
        write_cache_entry(_path(self.folder, self.key), _to_entry(self.task, result))
        return result


def cached(
    tasks: Sequence[ScoreTask | FitTask],
    *,
    cache: TaskCache | None,
    jobs: int | Executor,
    on_progress: Callable[[int], None] | None = None,
    before_tensorflow: Callable[[], object] | None = None,
) -> list[Any]:
    """Return the result of each task, from the cache where it is there, else by running the task.

    Parameters
    ----------
    tasks : sequence of ScoreTask or FitTask
    cache : TaskCache or None
        None: run every task and write nothing.
    jobs : int or Executor
        Number of processes, or the workers of a cluster.
    on_progress : callable, optional
        Called with 1 after each task.
    before_tensorflow : callable, optional
        Called before tasks of TensorFlow heads are run; not called where all of them are cached.

    Returns
    -------
    list
        As from `classify.model_selection.parallel.run_tasks`; cached results have ``from_cache`` set.
    """
    results: list[Any] = [None] * len(tasks)
    keys = [""] * len(tasks)
    if cache is not None:
        keys = [task_key(task, device=cache.device) for task in tasks]
        if not cache.fresh:
            results = [_read(cache.folder, key, task) for key, task in zip(keys, tasks, strict=True)]
    missing = [index for index, result in enumerate(results) if result is None]
    if on_progress is not None and len(missing) < len(tasks):
        on_progress(len(tasks) - len(missing))
    if not missing:
        return results
    to_run = [tasks[index] for index in missing]
    if isinstance(jobs, int):
        work = [
            task if cache is None else _CachingTask(task=task, key=keys[index], folder=cache.folder)
            for index, task in zip(missing, to_run, strict=True)
        ]
        computed = run_tasks(work, jobs=jobs, on_progress=on_progress, before_tensorflow=before_tensorflow)
    else:

        def write(number: int, result: Any) -> None:
            if cache is not None:
                key = keys[missing[number]]
                write_cache_entry(_path(cache.folder, key), _to_entry(to_run[number], result))

        computed = jobs.run(to_run, on_progress=on_progress, on_result=write)
    for index, result in zip(missing, computed, strict=True):
        results[index] = result
    if cache is not None:
        trim_cache(cache.folder, ending=_ENDING, limit=LIMIT)
    return results


def n_cached(results: Sequence[GridScores | FittedHead | Failure]) -> int:
    """Return how many results come from the cache."""
    return sum(getattr(result, "from_cache", False) for result in results)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}{_ENDING}"


def _read(folder: Path, key: str, task: ScoreTask | FitTask) -> GridScores | FittedHead | None:
    """Return the cached result of a task, None where there is none or it lacks something the task needs."""
    entry = read_cache_entry(_path(folder, key))
    if entry is None:
        return None
    try:
        return _scores(entry) if isinstance(task, ScoreTask) else _fitted(entry, task)
    except (KeyError, TypeError, ValueError, OSError):  # not in the form that this version writes
        return None


def _to_entry(task: ScoreTask | FitTask, result: GridScores | FittedHead) -> CacheEntry:
    if isinstance(result, GridScores):
        return CacheEntry(about={"scores": result.scores, "seconds": result.seconds})
    about: dict[str, Any] = {
        "probabilities": result.probabilities.tolist(),
        "fit_seconds": result.fit_seconds,
        "predict_seconds": result.predict_seconds,
        "notes": result.notes,
        "training": result.training,
    }
    parts: dict[str, bytes] = {}
    if result.saved is not None:
        about["labels"] = result.saved.labels
        parts[_HEAD] = result.saved.data
    log_dir = task.log_dir if isinstance(task, FitTask) else None
    if log_dir is not None:
        for path in sorted(path for path in log_dir.rglob("*") if path.is_file()):
            parts[_LOGS + path.relative_to(log_dir).as_posix()] = path.read_bytes()
    return CacheEntry(about=about, parts=parts)


def _scores(entry: CacheEntry) -> GridScores:
    scores = tuple(float(score) for score in entry.about["scores"])
    return GridScores(scores=scores, seconds=float(entry.about["seconds"]), from_cache=True)


def _fitted(entry: CacheEntry, task: FitTask) -> FittedHead | None:
    logs = {name.removeprefix(_LOGS): data for name, data in entry.parts.items() if name.startswith(_LOGS)}
    with_logs = get_head(task.head).tensorflow and task.log_dir is not None
    if (task.return_head and _HEAD not in entry.parts) or (with_logs and not logs):
        return None  # written by a task that needed neither head nor logs
    probabilities = np.array(entry.about["probabilities"], dtype=np.float64)
    saved = None
    if task.return_head:
        labels = tuple(int(label) for label in entry.about["labels"])
        saved = SavedHead(data=entry.parts[_HEAD], labels=labels)
    if with_logs:
        assert task.log_dir is not None
        _write_logs(task.log_dir, logs)
    return FittedHead(
        saved=saved,
        probabilities=probabilities.reshape(len(task.test), len(task.samples.classes)),
        fit_seconds=float(entry.about["fit_seconds"]),
        predict_seconds=float(entry.about["predict_seconds"]),
        notes=tuple(str(note) for note in entry.about["notes"]),
        training=_training(entry.about.get("training")),
        from_cache=True,
    )


def _training(curves: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if curves is None:
        return None
    counts = {name: int(curves[name]) for name in ("epochs", "best_epoch")}
    figures = {name: list(curves[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    if any(len(values) != counts["epochs"] for values in figures.values()):
        raise ValueError("expected one value per epoch")
    return {**counts, **figures}


def _write_logs(folder: Path, logs: Mapping[str, bytes]) -> None:
    for name, data in logs.items():
        parts = PurePosixPath(name).parts
        if ".." in parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{name} is outside the log folder")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


_PACKAGES = ("numpy", "scipy", "scikit-learn", "skops")
_NETWORK_PACKAGES = ("tensorflow", "keras")
_CLASSIFY = Path(__file__).parents[1]
# Sources of classify that change the result of a task.
_SOURCES = (
    *("data/blocks.py", "data/entries.py", "data/folds.py", "data/levels.py", "data/load.py"),
    *("data/samples.py", "heads/**/*.py", "io/head_file.py"),
    *("model_selection/parallel.py", "model_selection/tasks.py"),
)


def task_key(task: ScoreTask | FitTask, *, device: str) -> str:
    """Return the digest of everything that the result of a task depends on, 64 hex digits.

    Parameters
    ----------
    task : ScoreTask or FitTask
    device : str
        Device of TensorFlow heads.
    """
    network = get_head(task.head).tensorflow
    facts: dict[str, Any] = {
        "head": task.head,
        "class_weight": task.class_weight,
        "seed": task.seed,
        "fit": _rows_digest(task.samples, task.fit, views=True),
        "level_ends": task.samples.level_ends,
        "versions": _versions(_PACKAGES + (_NETWORK_PACKAGES if network else ())),
        "sources": sources_digest(_CLASSIFY, _SOURCES),
        "machine": (platform.system(), platform.machine(), device if network else ""),
    }
    if isinstance(task, ScoreTask):
        facts |= {
            "what": "scores",
            "points": task.points,
            "score": _rows_digest(task.samples, task.score, views=False),
        }
        entry = entry_numbers(task.samples, task.score)
        if has_repeats(entry):
            facts["entries"] = hashlib.sha256(np.ascontiguousarray(entry, dtype="<i8").data).hexdigest()
    else:
        params = all_params(task.head, without_levels(task.params), class_weight=task.class_weight)
        facts |= {
            "what": "fit",
            "params": {**params, "levels": levels_of(task.params)},
            "test": _rows_digest(task.samples, task.test, views=False),
            "val": None if task.val is None else _rows_digest(task.samples, task.val, views=False),
            "n_classes": len(task.samples.classes),
        }
        if task.samples.on_disk is not None:  # the dense head splits its epochs by the memory it may use
            facts["working_bytes"] = task.samples.on_disk.working_bytes
    text = json.dumps(plain_json(facts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def versions_here() -> dict[str, str]:
    """Return what must be equal on all workers of a comparison: package versions and a digest of our code."""
    return {**_versions(_PACKAGES + _NETWORK_PACKAGES), "sources": sources_digest(_CLASSIFY, _SOURCES)[:12]}


def _rows_digest(samples: Samples, images: IntArray, *, views: bool) -> str:
    """Return the digest of the images' features, labels, groups and indices, in this order of images."""
    digests = samples.content_digests[views]
    digest = hashlib.sha256(b"".join(digests[content] for content in samples.content[images]))
    for column in (samples.y[images], samples.group[images], images):
        digest.update(np.ascontiguousarray(column, dtype="<i8").data)
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    own = {"folio-grader": __version__, "python": platform.python_version()}
    return {**own, **installed_versions(packages)}
