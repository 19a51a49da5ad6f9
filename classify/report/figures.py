"""The report's charts as files, for a paper: the same specifications, drawn without a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from classify.io.results import plain_json
from classify.report.chart_data import Columns, heads_of, leaderboard_columns, primary
from classify.report.charts import MAP_STATES, Spec, as_rows, leaderboard_chart, map_chart
from classify.report.collect import ShownImages
from classify.report.head_charts import head_charts
from classify.report.names import NAMES
from classify.report.predictions import TestedEntries

_WIDTH = 340  # of a chart, in pixels of CSS: a column of a paper
_WIDE = 560
_CLIP = re.compile(r'((?:id="|url\(#)clip)(\d+)')
_DOTS = 3.0  # of a PNG, to one pixel of CSS: about 290 dots an inch


def write_figures(
    folder: Path, record: Mapping[str, Any], tested: TestedEntries, seen: ShownImages, *, kind: str = "svg"
) -> Path | None:
    """Write the leaderboard, the map, and every chart of the recommended head; earlier ones go.

    Parameters
    ----------
    folder : Path
        Made where it is missing, and emptied of what an earlier call wrote.
    record : mapping
        What results.json holds.
    tested : TestedEntries
        What its heads said.
    seen : ShownImages
        The images, as far as they can be shown.
    kind : {"svg", "png", "none"}

    Returns
    -------
    Path or None
        The folder; None where nothing was drawn.
    """
    shutil.rmtree(folder, ignore_errors=True)
    drawn = list(_charts(record, tested, seen)) if kind != "none" else []
    if not drawn:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec, columns, width in drawn:
        (folder / f"{name}.{kind}").write_bytes(draw(spec, columns, kind=kind, width=width))
    return folder


def draw(spec: Spec, columns: Columns, *, kind: str, width: int = _WIDTH) -> bytes:
    """Return a chart of these columns as an SVG or PNG file."""
    import vl_convert

    filled = {
        **spec,
        "width": width,
        "background": "white",
        "data": {"name": "rows", "values": plain_json(as_rows(columns))},
    }
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(filled, scale=_DOTS))
    return _numbered_anew(str(vl_convert.vegalite_to_svg(filled))).encode()


def _numbered_anew(svg: str) -> str:
    """Return a drawing whose clips are numbered from 0: the library goes on counting from chart to chart."""
    numbers: dict[str, int] = {}
    return _CLIP.sub(lambda found: f"{found[1]}{numbers.setdefault(found[2], len(numbers))}", svg)


def _charts(
    record: Mapping[str, Any], tested: TestedEntries, seen: ShownImages
) -> Iterator[tuple[str, Spec, Columns, int]]:
    chosen = record["recommended"]
    if chosen is None:
        return
    columns = leaderboard_columns(record)
    chart = leaderboard_chart(NAMES[primary(record)].long, n_heads=len(columns["rank"]))
    yield "leaderboard", chart, columns, _WIDE
    classes = record["classes"]
    specs = head_charts(classes, unit="entries" if record.get("join") else "images")
    best = next(
        head
        for head in heads_of(record, tested)
        if (head["store"], head["head"]) == (chosen["store"], chosen["head"])
    )
    for name, spec in specs.items():
        columns = best["panels"].get("training" if name.startswith("training_") else name)
        if columns:
            yield name, spec, columns, _WIDTH
    place = seen.maps.get(best["space"])
    if place:
        y = [seen.y[image] for image in place["image"]]
        state = _states(tested, seen, (best["store"], best["head"]))
        columns = {
            "x": place["x"],
            "y": place["y"],
            "class": [classes[label] for label in y],
            "state": [state.get(image, MAP_STATES[0]) for image in place["image"]],
        }
        yield "map", map_chart(classes), columns, _WIDE


def _states(tested: TestedEntries, seen: ShownImages, head: tuple[str, str]) -> dict[int, str]:
    """Return of each tested image whether a head graded it rightly."""
    right = (tested.probabilities[head].argmax(axis=1) == tested.y)[list(seen.units)]
    return {
        image: MAP_STATES[1 if ok else 2]
        for unit, ok in zip(seen.tested, right, strict=True)
        for image in unit
    }
