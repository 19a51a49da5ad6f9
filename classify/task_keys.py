"""The name of a task's outcome: the digest of all that it depends on.

That is the very rows (features, labels, groups, images), the head with its hyper-parameters, the seed, and
the versions and sources of what computes. So nothing that is kept under such a name is ever out of date.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from classify.heads import all_params, get_head
from classify.levels import levels_of, without_levels
from classify.portfolios import entry_numbers, several_images
from classify.results import plain_json
from classify.samples import Samples
from classify.tuning import FitTask, Indices, ScoreTask
from featurize import __version__

_PACKAGES = ("numpy", "scipy", "scikit-learn", "skops")
_NETWORK_PACKAGES = ("tensorflow", "keras")
# Beside all of heads/.
_SOURCES = (
    *("bundles/head_file", "levels", "portfolios", "running", "samples", "splits", "stored", "streaming"),
    *("streams", "temperature", "tuning"),
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
        "sources": _sources_digest(),
        "machine": (platform.system(), platform.machine(), device if network else ""),
    }
    if isinstance(task, ScoreTask):
        facts |= {
            "what": "scores",
            "points": task.points,
            "score": _rows_digest(task.samples, task.score, views=False),
        }
        entry = entry_numbers(task.samples, task.score)
        if several_images(entry):
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
    """Return what must be equal wherever one comparison is computed: versions, and our own sources."""
    return {**_versions(_PACKAGES + _NETWORK_PACKAGES), "sources": _sources_digest()[:12]}


def _rows_digest(samples: Samples, images: Indices, *, views: bool) -> str:
    """Return the digest of these images' rows, in their order: features, label, group and number of each."""
    digests = samples.content_digests[views]
    digest = hashlib.sha256(b"".join(digests[content] for content in samples.content[images]))
    for column in (samples.y[images], samples.group[images], images):
        digest.update(np.ascontiguousarray(column, dtype="<i8").data)
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"folio-grader": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # TensorFlow also comes under other names
            continue
    return found


@cache
def _sources_digest() -> str:
    """Return the digest of all of our code that shapes an outcome."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*(here / f"{name}.py" for name in _SOURCES), *sorted((here / "heads").glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
