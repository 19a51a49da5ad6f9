"""One arm of the benchmark in a process of its own: ``bench_child.py MODULE.FUNCTION OPTIONS``.

``FUNCTION(**OPTIONS)`` makes the arm ready and returns what runs it. Every line on stdin is the JSON of one
run's arguments; every line on stdout the JSON of what it gave. Whatever the libraries print goes to stderr.
Imports nothing of Folio, so that an arm may live in another environment.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    if resource is None:
        return time.process_time()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, function = sys.argv[1].split(".")
    run = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        start, cpu = time.perf_counter(), cpu_seconds()
        facts = run(**json.loads(line))
        seconds = time.perf_counter() - start
        seconds = facts.pop("seconds_counted", seconds)  # where a run does more than what is measured
        answer = {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "facts": facts}
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
