"""Charts of the report as SVG or PNG files, rendered without a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from classify.io.results import printable_json
from classify.report.chart_data import Columns, heads_of, leaderboard_columns
from classify.report.charts import MAP_STATES, Spec, as_rows, leaderboard_chart, map_chart
from classify.report.head_charts import head_charts
from classify.report.images import ShownImages
from classify.report.names import NAMES, primary_metric, units
from classify.report.predictions import TestedEntries

_WIDTH = 340  # chart width in CSS pixels: one column of a paper
_WIDE = 560
_CLIP = re.compile(r'((?:id="|url\(#)clip)(\d+)')
_PNG_SCALE = 3.0  # PNG pixels per CSS pixel: about 290 dots per inch


def write_figures(
    folder: Path, record: Mapping[str, Any], tested: TestedEntries, shown: ShownImages, *, kind: str = "svg"
) -> Path | None:
    """Write the leaderboard, the map, and every chart of the recommended head.

    Parameters
    ----------
    folder : Path
        Created if missing. Existing files are deleted.
    record : mapping
        Content of results.json.
    tested : TestedEntries
        Predictions of its heads.
    shown : ShownImages
        Images that the page shows.
    kind : {"svg", "png", "none"}

    Returns
    -------
    Path or None
        The folder, or None if there are no charts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    charts = list(_charts(record, tested, shown)) if kind != "none" else []
    if not charts:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec, columns, width in charts:
        (folder / f"{name}.{kind}").write_bytes(draw(spec, columns, kind=kind, width=width))
    return folder


def draw(spec: Spec, columns: Columns, *, kind: str, width: int = _WIDTH) -> bytes:
    """Return a chart of these columns as an SVG or PNG file."""
    import vl_convert

    complete = {
        **spec,
        "width": width,
        "background": "white",
        "data": {"name": "rows", "values": printable_json(as_rows(columns))},
    }
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(complete, scale=_PNG_SCALE))
    return _renumber_clips(str(vl_convert.vegalite_to_svg(complete))).encode()


def _renumber_clips(svg: str) -> str:
    """Return an SVG with clip paths numbered from 0; vl_convert continues the numbers of earlier charts."""
    numbers: dict[str, int] = {}
    return _CLIP.sub(lambda found: f"{found[1]}{numbers.setdefault(found[2], len(numbers))}", svg)


def _charts(
    record: Mapping[str, Any], tested: TestedEntries, shown: ShownImages
) -> Iterator[tuple[str, Spec, Columns, int]]:
    """Yield name, specification, columns and width of each chart."""
    recommended = record["recommended"]
    if recommended is None:
        return
    columns = leaderboard_columns(record)
    chart = leaderboard_chart(NAMES[primary_metric(record)].long, n_heads=len(columns["rank"]))
    yield "leaderboard", chart, columns, _WIDE
    classes = record["classes"]
    specs = head_charts(classes, unit=units(record))
    best = next(
        head
        for head in heads_of(record, tested)
        if (head["store"], head["head"]) == (recommended["store"], recommended["head"])
    )
    for name, spec in specs.items():
        columns = best["panels"].get("training" if name.startswith("training_") else name)
        if columns:
            yield name, spec, columns, _WIDTH
    positions = shown.maps.get(best["space"])
    if positions:
        state = _states(tested, shown, (best["store"], best["head"]))
        columns = {
            "x": positions["x"],
            "y": positions["y"],
            "class": [classes[shown.y[image]] for image in positions["image"]],
            "state": [state.get(image, MAP_STATES[0]) for image in positions["image"]],
        }
        yield "map", map_chart(classes), columns, _WIDE


def _states(tested: TestedEntries, shown: ShownImages, head: tuple[str, str]) -> dict[int, str]:
    """Return whether a head predicted each tested image correctly: image → one of `MAP_STATES`."""
    correct = (tested.probabilities[head].argmax(axis=1) == tested.y)[list(shown.entries)]
    return {
        image: MAP_STATES[1 if is_correct else 2]
        for images, is_correct in zip(shown.entry_images, correct, strict=True)
        for image in images
    }
