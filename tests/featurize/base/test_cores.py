"""Cores by affinity and control groups; group files as in the Linux kernel's documentation."""

import math
import os

import pytest

from featurize.base import cores
from featurize.base.cores import available_cores, cgroup_cores


def _groups(tmp_path, own, **files):
    """Return an invented /proc/self/cgroup and /sys/fs/cgroup."""
    (tmp_path / "own").write_text(own)
    root = tmp_path / "groups"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "own", root


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/only/outside\n", {"cpu.max": "400000 100000\n"}, 4),  # a container sees its group as the root
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "what\n"}, math.inf),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1\n", "cpuset/cpu.cfs_period_us": "1\n"}, math.inf),
    ],
)
def test_the_quota_of_control_groups(tmp_path, own, files, quota):
    assert cgroup_cores(*_groups(tmp_path, own, **files)) == quota


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cgroup_cores(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 8), (2.0, 2), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_the_smaller_of_affinity_and_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cgroup_cores", lambda *_: quota)
    assert available_cores() == expected
