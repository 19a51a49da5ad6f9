"""Basic modules for both packages: terminal, text, files, cache, CPU cores, Dask, project.

They import nothing of Folio except its errors and version.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports each public name on first use.

    Parameters
    ----------
    package : str
        Name of the package.
    modules : mapping
        Public name → module that has it.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            from featurize.base.text import did_you_mean

            hint = did_you_mean(name, modules)
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name, lambda: sorted(modules)
