"""What a Dask worker does for an extraction: it settles what is open, and fills shares."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.decode.decoding import Decoded, Decoder
from featurize.decode.reasons import kind_of
from featurize.engines import Engine
from featurize.errors import FolioError, ImageError
from featurize.making.columns import Columns
from featurize.making.execution import Execution
from featurize.making.filling import PartFiller, Share, StoreWork, fill
from featurize.making.parts import PartKeys
from featurize.making.terms import Terms, instructions, permit_path, unseen, weights_here
from featurize.spreading import RefusedError

if TYPE_CHECKING:
    pass

_LOOK_SECONDS = 0.5  # between looks at whether the run goes on, and between words on how far a share is
_GONE = frozenset({"unreadable", "not a regular file"})  # what files are of a drive that is no longer mounted


@dataclass(frozen=True, kw_only=True)
class StoreFilled:
    """What a share brought one store."""

    parts: tuple[PartKeys, ...]
    failed: dict[str, str]
    engine: str
    device: str
    columns: Columns | None
    n_forward: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a share brought; one of `stores` for each of its stores."""

    stores: tuple[StoreFilled, ...]
    n_decoded: int
    decoding: float  # seconds, summed over decode processes
    unusable: tuple[Path, str] | None  # a file, and why; where none is to be skipped
    notes: tuple[str, ...]  # of the engines
    instructions: tuple[str, ...]  # what the processor's arithmetic depends on


class _Watch:
    """Counts the files of a share; stops when the run has ended, and tells the client how far it is."""

    def __init__(self, station: Station, tell: Callable[[int], None]) -> None:
        self.n_decoded, self.decoding = 0, 0.0
        self._station, self._tell = station, tell
        self._looked_at = time.monotonic()

    def on_file(self, decoded: Decoded) -> None:
        """Take note of one decoded file."""
        self.n_decoded += 1
        self.decoding += decoded.seconds
        if decoded.problem and self._station.terms.strict:
            raise _UnusableError((decoded.request.path, decoded.problem))
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._tell(self.n_decoded)
            if not self._station.goes_on():
                raise _StoppedError


class _StoppedError(Exception):
    """The run has ended, or was stopped."""


class _UnusableError(Exception):
    """A file cannot be used, and none is to be skipped."""


class Station:
    """What a worker process keeps from share to share of one run: engines, and decode processes.

    Parameters
    ----------
    terms : Terms
        Of the run.
    n_threads : int
        Of the Dask worker: the cores that it is to take.
    """

    def __init__(self, terms: Terms, *, n_threads: int) -> None:
        self.terms = terms
        self.notes: list[str] = []
        if terms.device in ("auto", "cpu"):  # TensorFlow takes every core unless it is told before it starts
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
                os.environ.setdefault(name, str(n_threads))
        self.execution = Execution(
            engine=terms.engine,
            device=terms.device,
            gpu_memory=terms.gpu_memory,
            batch_size=terms.batch_size,
            strict=terms.strict,
            report=lambda stage, done, total: None,
            note=self.notes.append,
            remembered={},
            threads=n_threads,
        )
        self.decoder = Decoder(
            terms.rendering,
            most_views=terms.most_views,
            workers=terms.workers or n_threads,
            image_timeout=terms.image_timeout,
        )
        self.engines: dict[Path, Engine] = {}
        self.lock = threading.Lock()  # for one piece of work at a time

    def goes_on(self) -> bool:
        """Tell whether the run does, as far as its folders of parts say."""
        return all(permit_path(folder, self.terms.token).exists() for folder in self.terms.folders)

    def close(self) -> None:
        """End the decode processes and let the engines go."""
        self.decoder.close()
        self.engines.clear()

    def engine_of(self, store: StoreWork) -> Engine:
        """Return the engine of a store, built at the first call.

        Raises
        ------
        RefusedError
            If this machine cannot compute what the run has settled.
        """
        if store.path not in self.engines:
            try:
                self.engines[store.path] = self.execution.build(
                    store.backbone,
                    weights_here(self.terms.token, store.backbone, store.weights),
                    store.config,
                    engine=self.terms.engines.get(store.path),
                )
            except FolioError as error:
                raise RefusedError(f"on {platform.node()} cannot compute this: {error}") from error
        return self.engines[store.path]

    def _refuse_to_skip(self) -> None:
        """Raise where the images have gone from here: they are not to be skipped for that."""
        if reason := unseen(replace(self.terms, folders=())):
            raise ImageError(f"the worker {reason}")

    def fill(self, share: Share, tell: Callable[[int], None]) -> Filled:
        """Put the parts of a share in place, or as many as the run lives to see.

        Raises
        ------
        ImageError
            If the images are no longer to be seen from here.
        """
        parts: list[list[PartKeys]] = [[] for _ in share.stores]

        def kept(place: int, path: Path, part: Any) -> None:
            parts[place].append(PartKeys.of(path, part))

        fillers = [
            PartFiller(
                store,
                lambda store=store: self.engine_of(store),  # type: ignore[misc]
                engine=self.engines.get(store.path),
                on_part=lambda path, part, place=place: kept(place, path, part),  # type: ignore[misc]
            )
            for place, store in enumerate(share.stores)
        ]
        watch = _Watch(self, tell)
        unusable = None
        try:
            fill(share, fillers, decoder=self.decoder, on_file=watch.on_file)
            for filler in fillers:
                filler.finish()
        except (_StoppedError, _UnusableError) as stop:
            unusable = stop.args[0] if isinstance(stop, _UnusableError) else None
            for filler in fillers:
                filler.keep()
        except BaseException:
            for filler in fillers:
                with suppress(FolioError):  # what could not be written is the error already
                    filler.keep()
            raise
        finally:
            for filler in fillers:
                filler.close()
        if any(kind_of(reason) in _GONE for filler in fillers for reason in filler.failed.values()):
            self._refuse_to_skip()
        return Filled(
            stores=tuple(
                StoreFilled(
                    parts=tuple(found),
                    failed=filler.failed,
                    engine=filler.engine.name if filler.engine is not None else "",
                    device=filler.engine.device if filler.engine is not None else "",
                    columns=Columns.of(filler.engine) if filler.engine is not None else None,
                    n_forward=filler.n_forward,
                    seconds=filler.seconds,
                )
                for filler, found in zip(fillers, parts, strict=True)
            ),
            n_decoded=watch.n_decoded,
            decoding=watch.decoding,
            unusable=unusable,
            notes=tuple(self.notes),
            instructions=instructions(),
        )
