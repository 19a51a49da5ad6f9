"""What the client of an extraction has Dask workers do: functions that are called there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurize import engines
from featurize.config import config_engine
from featurize.decode.decoding import Request
from featurize.making.filling import Share
from featurize.making.precision import Sample, settle_precision
from featurize.making.production import PixelSums, pixel_sums
from featurize.making.station import Filled, Station
from featurize.making.terms import Terms, weights_here
from featurize.roster import GPU

if TYPE_CHECKING:
    from featurize.making.runs import Draft

_stations: dict[str, Station] = {}  # of this process, by the token of their run
_changing = threading.Lock()


def station_of(terms: Terms) -> Station:
    """Return this process' station for a run; those of runs that have ended are closed."""
    from distributed import get_worker

    with _changing:
        for token, other in list(_stations.items()):
            if token != terms.token and not other.goes_on():
                _stations.pop(token)
                with other.lock:
                    other.close()
        if terms.token not in _stations:
            _stations[terms.token] = Station(terms, n_threads=int(get_worker().state.nthreads))
        station = _stations[terms.token]
        station.terms = terms  # those of a later step say more
        return station


async def leave(token: str) -> None:
    """Close the station of a run, once it has put in place what it was at."""
    await asyncio.to_thread(_leave, token)


def _leave(token: str) -> None:
    with _changing:
        station = _stations.pop(token, None)
    if station is not None:
        with station.lock:
            station.close()


def topic(token: str) -> str:
    """Return where workers tell how far their shares are."""
    return f"folio-{token}"


def fill_share(terms: Terms, number: int, share: Share) -> Filled:
    """Fill a share on the worker that this is called on; see `Station.fill`."""
    from distributed import get_worker

    worker, station = get_worker(), station_of(terms)

    def tell(done: int) -> None:
        worker.log_event(topic(terms.token), {"share": number, "done": done})

    with station.lock:
        return station.fill(share, tell)


def sum_pixels(terms: Terms, requests: Sequence[Request]) -> PixelSums:
    """Sum up the pixels of some images on the worker that this is called on."""
    station = station_of(terms)
    with station.lock:
        return pixel_sums(requests, decoder=station.decoder, report=lambda done: None)


def settle(
    terms: Terms, drafts: Sequence[Draft], rounds: Sequence[Sequence[Request]]
) -> tuple[list[tuple[Draft, str]], bool]:
    """Settle precision and engine of stores on the worker that this is called on, as a local run does.

    Returns
    -------
    list of (Draft, str)
        With the name of the engine; engines that were built stay, for the shares to come.
    bool
        Whether this worker offers a GPU.
    """
    from distributed import get_worker

    station, found = station_of(terms), []
    with station.lock:
        sample = Sample(rounds, station.decoder, station.execution)
        for draft in drafts:
            here = replace(draft, weights=weights_here(terms.token, draft.backbone, draft.weights))
            settled, engine = settle_precision(here, sample, station.execution)
            if engine is not None:
                station.engines[draft.path] = engine
                name = engine.name
            else:
                name = engines.engine_here(
                    config_engine(settled.config) or terms.engine,
                    device=terms.device,
                    precision=settled.config["precision"],
                )
            found.append((replace(settled, weights=draft.weights), name))
    return found, get_worker().state.total_resources.get(GPU, 0) >= 1
