"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the number of cores this process may run on, at least 1.

    Its affinity counts, and on Linux what its control groups grant: a container with ``--cpus=2`` on a
    machine of 64 cores sees all of them and gets the time of two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = cgroup_cores(_OWN_GROUPS, _GROUPS)
    return max(1, cores if math.isinf(granted) else min(cores, math.ceil(granted)))


def cgroup_cores(own_groups: Path, groups: Path) -> float:
    """Return how many cores' time the control groups grant, infinity where they limit nothing.

    Parameters
    ----------
    own_groups : Path
        What Linux has at /proc/self/cgroup: lines of number, controllers and path, with colons between.
    groups : Path
        Where the groups are mounted; in a container, its own group is the root.
    """
    granted = math.inf
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:  # not Linux
        return granted
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers if controllers else groups
        inner = path.strip("/").split("/")
        for depth in range(len(inner) + 1):  # a limit above holds for all that is below
            granted = min(granted, _granted_by(root.joinpath(*inner[:depth])))
    return granted


def _granted_by(group: Path) -> float:
    """Return the limit of one group: cpu.max of version 2, or the two files of version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota == "max" or float(quota) < 0:
                return math.inf
            return float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf
