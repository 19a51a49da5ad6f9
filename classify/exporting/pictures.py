"""Pictures to hold an export against: drawn ones, where nobody names better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDE = 256  # pixels
N_DRAWN = 8
_COARSENESS = (1, 4, 16, 64)  # pixels a patch of one colour is wide


def draw_pictures(folder: Path, *, seed: int = 0) -> list[Path]:
    """Write pictures of patches of random colours, fine and coarse, pale and full; return the files."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    files = []
    for number in range(N_DRAWN):
        patch = _COARSENESS[number % len(_COARSENESS)]
        n = SIDE // patch
        colours = generator.integers(0, 256, (n, n, 3), dtype=np.uint8)
        if number >= len(_COARSENESS):
            colours = (192 + colours // 4).astype(np.uint8)
        pixels: npt.NDArray[np.uint8] = np.repeat(np.repeat(colours, patch, axis=0), patch, axis=1)
        file = folder / f"drawn_{number + 1}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files
