"""Number of CPU cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    Takes into account the CPU affinity of the process and, on Linux, the CPU quota of its control groups: a
    container started with ``--cpus=2`` on a machine with 64 cores sees 64 cores but gets the time of two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores(_OWN_GROUPS, _GROUPS)
    return max(1, cores if math.isinf(quota) else min(cores, math.ceil(quota)))


def cgroup_cores(own_groups: Path, groups: Path) -> float:
    """Return the CPU quota of the control groups in cores; infinity if there is no limit.

    Parameters
    ----------
    own_groups : Path
        Usually /proc/self/cgroup: one group per line, as ``number:controllers:path``.
    groups : Path
        Mount point of the control groups. In a container, its own group is the root.
    """
    smallest = math.inf
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:  # not Linux
        return smallest
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers if controllers else groups
        inner = path.strip("/").split("/")
        for depth in range(len(inner) + 1):  # the quota of a group also limits the groups inside it
            smallest = min(smallest, _group_quota(root.joinpath(*inner[:depth])))
    return smallest


def _group_quota(group: Path) -> float:
    """Return the quota of one group in cores: cpu.max in version 2, two files in version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota == "max" or float(quota) < 0:
                return math.inf
            return float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf
