"""Description of the machine of a benchmark, from local sources only."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from featurize.base.cores import available_cores
from featurize.base.project import installed_versions
from featurize.engines.select import fast_precisions

PACKAGES = (
    *("folio-grader", "tensorflow", "keras", "openvino", "numpy", "scipy", "scikit-learn", "pillow"),
    *("opencv-python-headless", "h5py"),
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd")


def describe_machine() -> dict[str, Any]:
    """Return processor model and flags, cores, memory, system and package versions as JSON."""
    cpu = _first_paragraph("/proc/cpuinfo")
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "amx_bf16": "amx_bf16" in flags,
        "native_precisions": list(fast_precisions("openvino", "cpu")),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": installed_versions(PACKAGES),
    }


def load_average() -> float | None:
    """Return the load average of the last minute: 0 on an idle machine."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows
        return None


def _first_paragraph(path: str) -> dict[str, str]:
    """Return the first paragraph of a /proc file as a dictionary; empty without that file."""
    try:
        lines = Path(path).read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_gib() -> float | None:
    total = _first_paragraph("/proc/meminfo").get("MemTotal")
    return round(int(total.split()[0]) / 2**20, 1) if total else None
