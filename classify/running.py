"""Tasks spread over the cores without changing their results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from classify.heads import get_head

if TYPE_CHECKING:
    from classify.samples import Samples

SMALL_BYTES = 2**22  # below this, starting worker processes costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a task brought no result."""

    reason: str


class Task(Protocol):
    """Work that depends on nothing but its own fields."""

    @property
    def head(self) -> str:
        """Name of the head."""
        ...

    def run(self) -> Any:
        """Do it."""
        ...


def default_jobs(samples: Sequence[Samples]) -> int:
    """Return one process a usable core, or 1 where starting them would take longer than the work."""
    import joblib

    most = max((item.plain.nbytes + item.augmented.nbytes for item in samples), default=0)
    return 1 if most < SMALL_BYTES else int(joblib.cpu_count())


def run_tasks(
    tasks: Sequence[Task], *, jobs: int, on_progress: Callable[[int], None] | None = None
) -> list[Any]:
    """Run tasks, those of TensorFlow heads one by one in this process and the others over ``jobs`` processes.

    Parameters
    ----------
    tasks : sequence of Task
    jobs : int
        Processes. Each uses one BLAS thread whatever their number, so that results do not depend on it.
    on_progress : callable, optional
        Called with 1 after each task.

    Returns
    -------
    list
        What each task brought, in order; a `Failure` where it raised.
    """
    outcomes: list[Any] = [Failure(reason="a worker process died (out of memory?); try --jobs 1")] * len(
        tasks
    )
    apart = [index for index, task in enumerate(tasks) if not get_head(task.head).tensorflow]
    here = [index for index, task in enumerate(tasks) if get_head(task.head).tensorflow]

    def keep(index: int, outcome: Any) -> None:
        outcomes[index] = outcome
        if on_progress is not None:
            on_progress(1)

    if min(jobs, len(apart)) > 1:
        _run_apart(tasks, apart, jobs=jobs, keep=keep)
    else:
        here = sorted(apart + here)
    for index in here:
        keep(*_attempt(index, tasks[index]))
    return outcomes


def _run_apart(
    tasks: Sequence[Task], indices: Sequence[int], *, jobs: int, keep: Callable[[int, Any], None]
) -> None:
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = joblib.Parallel(
        n_jobs=min(jobs, len(indices)), return_as="generator_unordered", max_nbytes="1M"
    )
    calls = (joblib.delayed(_attempt)(index, tasks[index]) for index in indices)
    try:
        for index, outcome in parallel(calls):
            keep(index, outcome)
    except TerminatedWorkerError:
        return  # what is missing stays a Failure that says so
    except BaseException:  # Ctrl-C, SIGTERM: no worker is to go on with work that nobody waits for
        get_reusable_executor(reuse=True, kill_workers=True).shutdown(wait=True, kill_workers=True)
        raise


def _attempt(index: int, task: Task) -> tuple[int, Any]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with threadpool_limits(limits=1):
            return index, task.run()
    except Exception as error:  # any solver's error: one head must not take the others with it
        text = " ".join(str(error).split()) or "no message"
        return index, Failure(reason=f"{type(error).__name__}: {text}"[:300])
