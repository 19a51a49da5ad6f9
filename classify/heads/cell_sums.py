"""First and second moments of the rows of each class in each part, summed over a stream."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.heads.base import FitError
from classify.heads.scaled import Scaled
from classify.heads.streamed import summed

F64 = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_VALUES = 2**23  # of a block: adding to a matrix costs as much as the products of some hundred rows


@dataclass(kw_only=True, eq=False)
class CellSums:
    """What rows add up to; a cell is a class in a part."""

    y: npt.NDArray[np.integer]  # (n_rows,)
    part: IntArray  # (n_rows,) from 0
    n_parts: int
    counts: F64  # (n_parts, n_classes)
    sums: F64  # (n_parts, n_classes, n_columns)
    squares: F64  # (n_parts, n_classes, n_columns, n_columns) sums of outer products
    fourth: F64 | None = None  # (n_parts + 1,) see `add_fourth_moments`

    def moments(self, kept: npt.NDArray[np.bool_]) -> tuple[F64, F64]:
        """Return of the parts that are kept the class means, and the scatter of each class about its mean."""
        counts, sums = self.counts[kept].sum(axis=0), self.sums[kept].sum(axis=0)
        scatter = self.squares[kept].sum(axis=0)  # (n_classes, n_columns, n_columns)
        means = sums / counts[:, None]
        for k, mean in enumerate(means):
            scatter[k] -= np.outer(sums[k], mean)
        return means, scatter

    def add_fourth_moments(self, scaled: Scaled) -> None:
        """Sum the fourth powers of the rows' distances from their class means.

        Without each part in turn, and at last over all rows: Ledoit's and Wolf's shrinkage needs them.
        """
        every = np.ones(self.n_parts, dtype=bool)
        kept = [*(np.arange(self.n_parts) != one for one in range(self.n_parts)), every]
        means = np.stack(
            [self.sums[some].sum(axis=0) / self.counts[some].sum(axis=0)[:, None] for some in kept]
        )
        label = np.unique(self.y, return_inverse=True)[1]
        lengths = np.square(means).sum(axis=2)  # (n_parts + 1, n_classes)

        def powers(where: IntArray, Z: F64) -> F64:
            own = label[where]
            products = np.einsum("ij,pkj->ipk", Z, means, optimize=True)[np.arange(len(Z)), :, own]
            squares = np.einsum("ij,ij->i", Z, Z)[:, None] - 2 * products + lengths.T[own]
            squares[self.part[where][:, None] == np.arange(self.n_parts + 1)] = 0.0
            return np.square(squares).sum(axis=0)

        self.fourth = summed(scaled.each(powers))


def sum_cells(scaled: Scaled, y: npt.NDArray[np.integer], part: IntArray) -> CellSums:
    """Sum the rows of each class in each part, and their outer products, in one pass.

    Raises
    ------
    FitError
        If there is no memory for them.
    """
    stream = scaled.stream
    classes, label = np.unique(y, return_inverse=True)
    n_parts, n_classes, width = int(part.max()) + 1, len(classes), stream.n_features
    n_cells = n_parts * n_classes
    needed = 8 * n_cells * width**2
    if needed > stream.working_bytes // 2:
        raise FitError(
            f"covariances of {n_classes} classes in {n_parts} parts take {needed / 1e9:.1f} GB: more than "
            "there is. Raise --memory"
        )
    cell = part * n_classes + label
    sums, squares = np.zeros((n_cells, width)), np.zeros((n_cells, width, width))

    def sorted_rows(where: IntArray, Z: F64) -> tuple[F64, IntArray]:
        order = np.argsort(cell[where], kind="stable")
        return Z[order], np.searchsorted(cell[where][order], np.arange(n_cells + 1))

    values = min(_VALUES, max(width, stream.working_bytes // (4 * 30 * (stream.threads + 2))))
    with ThreadPoolExecutor(stream.threads) as pool:
        for Z, ends in scaled.each(sorted_rows, values=values):

            def add(one: int, Z: F64 = Z, ends: IntArray = ends) -> None:
                rows = Z[ends[one] : ends[one + 1]]
                sums[one] += rows.sum(axis=0)
                squares[one] += rows.T @ rows

            list(pool.map(add, range(n_cells)))
    shape = (n_parts, n_classes)
    return CellSums(
        y=y,
        part=part,
        n_parts=n_parts,
        counts=np.bincount(cell, minlength=n_cells).reshape(shape).astype(np.float64),
        sums=sums.reshape(*shape, width),
        squares=squares.reshape(*shape, width, width),
    )
