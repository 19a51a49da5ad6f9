"""Process of one arm: ``bench_child.py MODULE.FUNCTION OPTIONS``.

``FUNCTION(**OPTIONS)`` prepares the arm and returns a function. Each line on stdin has the keyword arguments
of one run as JSON; each line on stdout has its result as JSON. Output of the libraries goes to stderr. This
module imports nothing of Folio, so that an arm may run in another environment.
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
    """Return the processor time of this process and its finished children."""
    if resource is None:
        return time.process_time()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def main() -> None:
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, function = sys.argv[1].split(".")
    run = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        start, cpu = time.perf_counter(), cpu_seconds()
        facts = run(**json.loads(line))
        seconds = time.perf_counter() - start
        seconds = facts.pop("seconds_counted", seconds)  # set by runs that do more than the measured work
        result = {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "facts": facts}
        with contextlib.suppress(BrokenPipeError):
            output.write(json.dumps(result) + "\n")
            output.flush()


if __name__ == "__main__":
    main()
