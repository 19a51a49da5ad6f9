"""What verify, repair and a dry run print; the figures come from the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featurize.terminal import console, printable

if TYPE_CHECKING:
    from featurize.upkeep.preview import Preview
    from featurize.upkeep.repairing import Repair
    from featurize.upkeep.verification import Verification

SHOWN = 100  # lines of what is off; all of it with --json


def verification_json(verification: Verification) -> dict[str, Any]:
    """Return a verification as JSON-able data, names made printable."""
    sampled = verification.sampled
    return {
        "store": printable(str(verification.path)),
        "clean": verification.clean,
        "data": printable(str(verification.data)) if verification.data is not None else None,
        "contents": verification.n_content,
        "images": verification.n_images,
        "computed_again": {
            "contents": sampled.n_contents,
            "views": sampled.n_views,
            "tolerance": sampled.tolerance,
            "largest_difference": sampled.largest_difference,
        }
        if sampled is not None
        else None,
        "faults": [
            {
                "reach": fault.reach,
                "where": printable(fault.where),
                "what": printable(fault.what),
                "contents": list(fault.contents),
            }
            for fault in verification.faults
        ],
        "notes": [printable(note) for note in verification.notes],
        "mend": printable(verification.mend),
    }


def print_verification(verification: Verification) -> None:
    """Print what was looked at, what is off, and the command that mends it."""
    looked_at = ["structure", "checksums"]
    if verification.compared:
        looked_at.append(f"the files in {verification.data}")
    sampled = verification.sampled
    if sampled is not None and sampled.n_contents:
        looked_at.append(
            f"{sampled.n_contents} contents computed again ({sampled.n_views} views; largest difference "
            f"{sampled.largest_difference:.1g} of the largest feature, {sampled.tolerance:g} allowed)"
        )
    _line(
        f"{verification.path}: {verification.n_content} contents, {verification.n_images} files; "
        f"looked at {', '.join(looked_at)}"
    )
    for note in verification.notes:
        _line(f"note: {note}")
    if verification.clean:
        _line("nothing is off")
        return
    _print_faults(verification)
    _line(f"Mend it with: {verification.mend}")


def print_repair(repair: Repair) -> None:
    """Print what was off and what was made again."""
    verification, result = repair.verification, repair.result
    for note in verification.notes:
        _line(f"note: {note}")
    if result is None:
        _line(f"{verification.path}: nothing is off, nothing was changed")
        return
    _print_faults(verification)
    resumed = f", {result.n_resumed} contents were there already" if result.n_resumed else ""
    _line(
        f"{result.path}: mended; {result.n_decoded} files decoded, {result.n_forward} views computed"
        f"{resumed}; it has {result.n_content} contents now"
    )


def preview_json(preview: Preview) -> dict[str, Any]:
    """Return a preview as JSON-able data, names made printable."""
    facts = dataclasses.asdict(preview)
    return {**_printable(facts), "path": printable(str(preview.path))}


def print_previews(previews: Sequence[Preview]) -> None:
    """Print what a run would do for each store."""
    for preview in previews:
        todo = "nothing to do"
        if preview.state != "up to date":
            todo = f"{preview.n_decode} contents to decode, {preview.n_views} views to compute"
        _line(f"{preview.backbone}: {preview.state}, {todo}")
        _line(f"  {preview.path}")
        if preview.state == "changes":
            counts = preview.changes.counts
            told = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count) or "no change"
            _line(f"  files: {told}")
        if preview.changes.n_duplicates:
            _line(f"  {preview.changes.n_duplicates} of {preview.n_images} files are copies of another")
        if preview.n_parts:
            damaged = f", {preview.n_damaged_parts} of them damaged" if preview.n_damaged_parts else ""
            _line(
                f"  an unfinished run left {preview.n_parts} parts{damaged}: "
                f"{preview.n_resumed} contents are finished in them"
            )
        if preview.fits_statistics:
            _line("  all training images are decoded once more before, to fit the statistics")
        if preview.settles_precision:
            _line("  the precision is settled before, on 32 of the images at most")
        if preview.missing_weights:
            _line(f"  weights: {preview.missing_weights}")
    _line("This was a dry run: nothing was done. Do it without --dry-run")


def _print_faults(verification: Verification) -> None:
    for fault in verification.faults[:SHOWN]:
        _line(str(fault))
    if (more := len(verification.faults) - SHOWN) > 0:
        _line(f"… and {more} more; all with: --json")


def _line(text: str) -> None:
    console().print(printable(text), markup=False, soft_wrap=True)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list | tuple) else value
