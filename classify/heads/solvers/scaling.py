"""Scaling of a stream of rows: fitted in one pass over the rows, then applied block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sklearn.base import TransformerMixin

from classify.data.neighbors import unit_rows
from classify.heads.base import FitError, make_scaler
from featurize.base.typing import BoolArray, Float32Array, Float64Array, IntArray

if TYPE_CHECKING:
    from classify.data.blocks import RowStream

T = TypeVar("T")

# Rows of a sample that replaces all rows where an approximation is enough, as in preconditioners.
SAMPLE_ROWS_PER_COLUMN = 8
MIN_SAMPLE_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaledStream:
    """A stream of rows and their scaling."""

    stream: RowStream
    scaler: Any  # fitted transformer; None: the rows are not scaled
    gamma: float  # scikit-learn's gamma="scale" of the scaled rows
    mean: Float64Array  # (n_features,) of the unscaled rows
    variance: Float64Array  # (n_features,) of the unscaled rows

    def map_blocks(
        self,
        work: Callable[[IntArray, Float64Array], T],
        *,
        chosen: BoolArray | None = None,
        values: int | None = None,
    ) -> Iterator[T]:
        """Apply a function to each block of scaled rows, (n_block, n_features), float64; yield the results.

        The parameters are those of `RowStream.map_blocks`.
        """
        return self.stream.map_blocks(
            lambda position, X: work(position, self.scale(X)), chosen=chosen, values=values
        )

    def map_blocks_float32(self, work: Callable[[IntArray, Float32Array], T]) -> Iterator[T]:
        """As `map_blocks`, with rows in float32 and a last column of ones."""
        return self.stream.map_blocks(lambda position, X: work(position, self._scale_float32(X)))

    def scale(self, X: Float32Array) -> Float64Array:
        """Return rows (n, n_features) scaled as by the transformer."""
        Z = X.astype(np.float64)
        if self.scaler is None:
            return Z
        if hasattr(self.scaler, "scale_"):
            Z -= self.scaler.mean_
            Z /= self.scaler.scale_
            return Z
        return unit_rows(Z, copy=False)

    def sample(self, *, seed: int = 0) -> tuple[IntArray, Float64Array]:
        """Return a random sample of rows, ascending, and their scaled features; all rows if they are few."""
        n = min(len(self.stream), sample_size(self.stream))
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.stream))[:n])
        return rows, self.scale(self.stream.take(rows))

    def _scale_float32(self, X: Float32Array) -> Float32Array:
        Z = np.empty((len(X), X.shape[1] + 1), dtype=np.float32)
        Z[:, -1] = 1.0
        if self.scaler is not None and hasattr(self.scaler, "scale_"):
            np.subtract(X, self.scaler.mean_.astype(np.float32), out=Z[:, :-1])
            Z[:, :-1] *= (1.0 / self.scaler.scale_).astype(np.float32)
        else:
            Z[:, :-1] = X if self.scaler is None else unit_rows(X, copy=False)
        return Z


def sample_size(stream: RowStream) -> int:
    """Return the number of rows of a sample: in proportion to the columns, and limited by memory."""
    n = max(MIN_SAMPLE_ROWS, SAMPLE_ROWS_PER_COLUMN * stream.n_features)
    return int(min(n, max(1, stream.working_bytes // (4 * 24 * stream.n_features))))


def unscaled(stream: RowStream) -> ScaledStream:
    """Return a stream without scaling."""
    zeros = np.zeros(stream.n_features)
    return ScaledStream(stream=stream, scaler=None, gamma=1.0, mean=zeros, variance=zeros)


def fit_scaling(stream: RowStream, scaling: str, *, chosen: BoolArray | None = None) -> ScaledStream:
    """Return a stream scaled by scikit-learn's transformer, fitted on all rows or on the chosen ones.

    Raises
    ------
    FitError
        If the scaling is unknown, or a feature is not finite.
    """
    scaler = make_scaler(scaling)
    n, mean, squares = 0, np.zeros(stream.n_features), np.zeros(stream.n_features)
    unit_sums = np.zeros(2)  # sum, and sum of squares, of all values of the rows scaled to length 1
    l2 = scaling == "l2"

    def moments(_: IntArray, X: Float32Array) -> tuple[int, Float64Array, Float64Array, Float64Array]:
        Z = X.astype(np.float64)
        block_mean = Z.mean(axis=0)
        block_squares = np.square(Z - block_mean).sum(axis=0)
        unit = unit_rows(Z, copy=False) if l2 else Z[:0]
        return len(X), block_mean, block_squares, np.array([unit.sum(), np.square(unit).sum()])

    for n_block, block_mean, block_squares, block_unit_sums in stream.map_blocks(moments, chosen=chosen):
        # Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
        difference = block_mean - mean
        mean += difference * (n_block / (n + n_block))
        squares += block_squares + difference**2 * (n * n_block / (n + n_block))
        unit_sums += block_unit_sums
        n += n_block
    if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
        raise FitError(
            "The features contain NaN or infinity: expected finite features. Check the store: "
            "featurize verify STORE"
        )
    variance = squares / n
    _set_fitted(scaler, n, mean, variance)
    if l2:
        total_variance = unit_sums[1] / (n * len(mean)) - (unit_sums[0] / (n * len(mean))) ** 2
    else:  # standardised columns have mean 0
        total_variance = float(np.mean(variance / scaler.scale_**2))
    gamma = 1.0 / (len(mean) * total_variance) if total_variance > 0 else 1.0
    return ScaledStream(stream=stream, scaler=scaler, gamma=float(gamma), mean=mean, variance=variance)


def _set_fitted(scaler: TransformerMixin, n: int, mean: Float64Array, variance: Float64Array) -> None:
    """Set the fitted attributes of a transformer from the moments of n rows."""
    scaler.n_features_in_ = len(mean)
    if not hasattr(scaler, "with_std"):
        return
    # As in scikit-learn, columns whose values differ only by rounding are constant.
    epsilon = np.finfo(np.float64).eps
    constant = variance <= n * epsilon * variance + (n * mean * epsilon) ** 2
    scaler.mean_, scaler.var_, scaler.n_samples_seen_ = mean, variance, n
    scaler.scale_ = np.where(constant, 1.0, np.sqrt(variance))
