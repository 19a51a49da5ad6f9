"""What every format's `load` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

# Squares by the name of the input, (n, size, size, 3), to probabilities, (n, n_classes).
Run = Callable[[Mapping[str, npt.NDArray[np.uint8]]], npt.NDArray[np.float32]]
