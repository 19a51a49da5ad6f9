"""A task whose outcome an earlier run has kept is not run again."""

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
    """Where outcomes are kept from one run to the next."""

    folder: Path
    device: str  # where TensorFlow heads run, as far as it is known without TensorFlow
    fresh: bool = False  # nothing is recalled, but what is computed is kept


@dataclass(frozen=True, kw_only=True)
class _Keeping:
    """A task that keeps its outcome where it is run, so that a run that is stopped loses none."""

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
        outcome = self.task.run()
        write_cache_entry(_path(self.folder, self.key), _as_kept(self.task, outcome))
        return outcome


def cached(
    tasks: Sequence[ScoreTask | FitTask],
    *,
    memory: TaskCache | None,
    jobs: int | Executor,
    on_progress: Callable[[int], None] | None = None,
    before_tensorflow: Callable[[], object] | None = None,
) -> list[Any]:
    """Return the outcome of each task: that of an earlier run where it was kept, else run now.

    Parameters
    ----------
    tasks : sequence of ScoreTask or FitTask
    memory : TaskCache, optional
        Without one every task is run, and nothing kept.
    jobs : int or Executor
        Processes, or the workers of a cluster.
    on_progress : callable, optional
        Called with 1 after each task.
    before_tensorflow : callable, optional
        Called before tasks of TensorFlow heads are run, and not where all of them are recalled.

    Returns
    -------
    list
        As `classify.model_selection.parallel.run_tasks`; what was recalled is marked as ``remembered``.
    """
    outcomes: list[Any] = [None] * len(tasks)
    keys = [""] * len(tasks)
    if memory is not None:
        keys = [task_key(task, device=memory.device) for task in tasks]
        if not memory.fresh:
            outcomes = [_recalled(memory.folder, key, task) for key, task in zip(keys, tasks, strict=True)]
    missing = [index for index, outcome in enumerate(outcomes) if outcome is None]
    if on_progress is not None and len(missing) < len(tasks):
        on_progress(len(tasks) - len(missing))
    if not missing:
        return outcomes
    if isinstance(jobs, int):
        work = [
            tasks[index]
            if memory is None
            else _Keeping(task=tasks[index], key=keys[index], folder=memory.folder)
            for index in missing
        ]
        brought = run_tasks(work, jobs=jobs, on_progress=on_progress, before_tensorflow=before_tensorflow)
    else:

        def keep_it(place: int, outcome: Any) -> None:
            index = missing[place]
            if memory is not None:
                write_cache_entry(_path(memory.folder, keys[index]), _as_kept(tasks[index], outcome))

        wanted = [tasks[index] for index in missing]
        brought = jobs.run(wanted, on_progress=on_progress, on_outcome=keep_it)
    for index, outcome in zip(missing, brought, strict=True):
        outcomes[index] = outcome
    if memory is not None:
        trim_cache(memory.folder, ending=_ENDING, limit=LIMIT)
    return outcomes


def n_cached(outcomes: Sequence[GridScores | FittedHead | Failure]) -> int:
    """Count the outcomes of earlier runs."""
    return sum(getattr(outcome, "remembered", False) for outcome in outcomes)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}{_ENDING}"


def _recalled(folder: Path, key: str, task: ScoreTask | FitTask) -> GridScores | FittedHead | None:
    """Return what an earlier run kept, with all that this task has to bring, or None."""
    kept = read_cache_entry(_path(folder, key))
    if kept is None:
        return None
    try:
        return _scores(kept) if isinstance(task, ScoreTask) else _fitted(kept, task)
    except (KeyError, TypeError, ValueError, OSError):  # not as this version writes it
        return None


def _as_kept(task: ScoreTask | FitTask, outcome: GridScores | FittedHead) -> CacheEntry:
    if isinstance(outcome, GridScores):
        return CacheEntry(about={"scores": outcome.scores, "seconds": outcome.seconds})
    facts: dict[str, Any] = {
        "probabilities": outcome.probabilities.tolist(),
        "fit_seconds": outcome.fit_seconds,
        "predict_seconds": outcome.predict_seconds,
        "notes": outcome.notes,
        "training": outcome.training,
    }
    parts: dict[str, bytes] = {}
    if outcome.saved is not None:
        facts["labels"] = outcome.saved.labels
        parts[_HEAD] = outcome.saved.data
    log_dir = task.log_dir if isinstance(task, FitTask) else None
    if log_dir is not None:
        for path in sorted(path for path in log_dir.rglob("*") if path.is_file()):
            parts[_LOGS + path.relative_to(log_dir).as_posix()] = path.read_bytes()
    return CacheEntry(about=facts, parts=parts)


def _scores(kept: CacheEntry) -> GridScores:
    scores = tuple(float(score) for score in kept.about["scores"])
    return GridScores(scores=scores, seconds=float(kept.about["seconds"]), remembered=True)


def _fitted(kept: CacheEntry, task: FitTask) -> FittedHead | None:
    logs = {name.removeprefix(_LOGS): data for name, data in kept.parts.items() if name.startswith(_LOGS)}
    with_logs = get_head(task.head).tensorflow and task.log_dir is not None
    if (task.keep and _HEAD not in kept.parts) or (with_logs and not logs):
        return None  # kept by a run that needed less of it
    probabilities = np.array(kept.about["probabilities"], dtype=np.float64)
    saved = None
    if task.keep:
        labels = tuple(int(label) for label in kept.about["labels"])
        saved = SavedHead(data=kept.parts[_HEAD], labels=labels)
    if with_logs:
        assert task.log_dir is not None
        _write_logs(task.log_dir, logs)
    return FittedHead(
        saved=saved,
        probabilities=probabilities.reshape(len(task.test), len(task.samples.classes)),
        fit_seconds=float(kept.about["fit_seconds"]),
        predict_seconds=float(kept.about["predict_seconds"]),
        notes=tuple(str(note) for note in kept.about["notes"]),
        training=_training(kept.about.get("training")),
        remembered=True,
    )


def _training(curves: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if curves is None:
        return None
    counts = {name: int(curves[name]) for name in ("epochs", "best_epoch")}
    figures = {name: list(curves[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    if any(len(one) != counts["epochs"] for one in figures.values()):
        raise ValueError("not one figure an epoch")
    return {**counts, **figures}


def _write_logs(folder: Path, logs: Mapping[str, bytes]) -> None:
    for name, data in logs.items():
        parts = PurePosixPath(name).parts
        if ".." in parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{name} leads out of the folder")
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
    """Return the digest of everything that the outcome of a task depends on, 64 hex digits.

    Parameters
    ----------
    task : ScoreTask or FitTask
    device : str
        Where TensorFlow heads run.
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
        if task.samples.stored is not None:  # it decides how long the dense head's stretches are
            facts["working_bytes"] = task.samples.stored.working_bytes
    text = json.dumps(plain_json(facts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def versions_here() -> dict[str, str]:
    """Return what must be equal on all workers of a comparison: package versions and a digest of our code."""
    return {**_versions(_PACKAGES + _NETWORK_PACKAGES), "sources": sources_digest(_CLASSIFY, _SOURCES)[:12]}


def _rows_digest(samples: Samples, images: IntArray, *, views: bool) -> str:
    """Return the digest of these images' rows, in their order: features, label, group and number of each."""
    digests = samples.content_digests[views]
    digest = hashlib.sha256(b"".join(digests[content] for content in samples.content[images]))
    for column in (samples.y[images], samples.group[images], images):
        digest.update(np.ascontiguousarray(column, dtype="<i8").data)
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    own = {"folio-grader": __version__, "python": platform.python_version()}
    return {**own, **installed_versions(packages)}
