"""Parts put in place by a thread of their own, while the network goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from featurize.making.parts import Part, write_part


class PartWriting:
    """Puts one part in place at a time; whoever brings the next one waits for it.

    Parameters
    ----------
    folder : Path
        Where.
    config_digest : str
        Of the features.
    on_part : callable
        Told of each part that is in place.
    """

    def __init__(self, folder: Path, *, config_digest: str, on_part: Callable[[Path, Part], None]) -> None:
        self._folder, self._config_digest, self._on_part = folder, config_digest, on_part
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._under_way: Future[None] | None = None

    def put(self, part: Part) -> None:
        """Start on a part, once the one before is in place; the part is not to be touched any more.

        Raises
        ------
        StoreError
            If the part before could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(self._put, part)

    def wait(self) -> None:
        """Return when all parts are in place.

        Raises
        ------
        StoreError
            If one could not be written.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()

    def _put(self, part: Part) -> None:
        self._on_part(write_part(self._folder, part, config_digest=self._config_digest), part)
