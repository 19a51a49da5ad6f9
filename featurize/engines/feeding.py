"""Pictures one by one into batches, several of which are on their way through an engine at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from featurize.engines import Engine, Pending

Token = TypeVar("Token")


class Feeder(Generic[Token]):
    """Fills batches, submits them, and delivers their features in the order of the pictures.

    Holds one batch more than the engine takes at once, whatever the number of pictures.

    Parameters
    ----------
    engine : Engine
        What computes the features.
    deliver : callable
        Called with what came along with each picture of a batch, and their features (n, n_features), float32.

    Attributes
    ----------
    n_sent : int
        Pictures submitted.
    seconds : float
        Waited for the engine.
    """

    def __init__(
        self, engine: Engine, deliver: Callable[[list[Token], npt.NDArray[np.float32]], None]
    ) -> None:
        self.n_sent = 0
        self.seconds = 0.0
        self._engine, self._deliver = engine, deliver
        self._shape = (engine.batch_size, engine.size, engine.size, 3)
        self._images = np.empty(self._shape, np.uint8)
        self._tokens: list[Token] = []
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._sent: deque[tuple[list[Token], npt.NDArray[np.uint8], Pending]] = deque()

    def add(self, pixels: npt.NDArray[np.uint8], token: Token) -> None:
        """Take a copy of one picture (size, size, 3), and what its features are to be known by."""
        self._images[len(self._tokens)] = pixels
        self._tokens.append(token)
        if len(self._tokens) == len(self._images):
            self._send()

    def finish(self) -> None:
        """Submit what is left, and deliver all features that are still on their way."""
        if self._tokens:
            self._send()
        while self._sent:
            self._deliver(*self._take())

    def _send(self) -> None:
        done = self._take() if len(self._sent) >= self._engine.in_flight else None
        start = time.perf_counter()
        pending = self._engine.submit(self._images[: len(self._tokens)])
        self.seconds += time.perf_counter() - start
        self.n_sent += len(self._tokens)
        self._sent.append((self._tokens, self._images, pending))
        self._tokens = []
        self._images = self._spare.pop() if self._spare else np.empty(self._shape, np.uint8)
        if done is not None:
            self._deliver(*done)  # only now: the engine has its next batch
        if self._engine.in_flight == 1:  # it has computed while it was handed the batch
            self._deliver(*self._take())

    def _take(self) -> tuple[list[Token], npt.NDArray[np.float32]]:
        tokens, images, pending = self._sent.popleft()
        start = time.perf_counter()
        features = pending.result()
        self.seconds += time.perf_counter() - start
        self._spare.append(images)
        return tokens, features
