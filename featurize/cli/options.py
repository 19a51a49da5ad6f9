"""Options of the commands that make and look at stores; every default is read from the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from featurize.base.terminal import CommaList, default_of
from featurize.extraction.extract import DEFAULT_BACKBONE, extract
from featurize.extraction.options import VIEWS_FOR
from featurize.images.augment import ViewRanges

RANGES = ViewRanges()


def _default(parameter: str) -> Any:
    return default_of(extract, parameter)


# What `extract` and `scan` mean the same by.
ORDER = click.option(
    "--order",
    multiple=True,
    type=CommaList(),
    help="The classes from worst to best, e.g. low,middle,award; or repeated.",
)
ENTRIES = click.option(
    "--entries",
    type=click.Choice(["folder", "image"]),
    default=_default("entries"),
    help="Whether a folder below a class is one entry.",
)
WORKERS = click.option("--workers", type=click.IntRange(1), help="Decoding processes.  [default: one a core]")
DASK = click.option(
    "--dask",
    metavar="ADDRESS|local[:N]",
    help="Have Dask workers compute: those of a scheduler, or N started here.",
)
EXTRACT: tuple[Callable[..., Any], ...] = (
    click.argument("data", type=click.Path(path_type=Path)),
    click.option(
        "--backbone",
        "backbones",
        multiple=True,
        type=CommaList(),
        help=f"Names from `featurize backbones`; with commas or repeated.  [default: {DEFAULT_BACKBONE}]",
    ),
    click.option("--views", default=_default("views"), help="Augmented views of each image; 0 for none."),
    click.option(
        "--views-for",
        type=click.Choice(VIEWS_FOR),
        default=_default("views_for"),
        help="Whose images get views.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Folder of the stores.  [default: artifacts/features/DATASET]",
    ),
    click.option("--weights", default=_default("weights"), help="imagenet, random, or a weights file."),
    ORDER,
    ENTRIES,
    click.option(
        "--input-size",
        type=click.IntRange(1),
        help="Side of the network's input.  [default: the backbone's own]",
    ),
    click.option(
        "--resize",
        type=click.Choice(["squash", "crop", "pad"]),
        default=_default("resize"),
        help="How a picture becomes a square.",
    ),
    click.option(
        "--resample",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
        default=_default("resample"),
        help="Antialiased filter of the one resize.",
    ),
    click.option(
        "--preprocess",
        type=click.Choice(["native", "rescale", "featurewise"]),
        default=_default("preprocess"),
        help="The backbone's own; or, for comparison, 1/255; or 1/255 with fitted mean and deviation.",
    ),
    click.option("--rotation", default=RANGES.rotation, help="Degrees, either way."),
    click.option("--width-shift", default=RANGES.width_shift, help="Fraction of the width, either way."),
    click.option("--height-shift", default=RANGES.height_shift, help="Fraction of the height, either way."),
    click.option("--shear", default=RANGES.shear, help="Degrees, as in Keras: 0.2 is nearly nothing."),
    click.option("--zoom-low", default=RANGES.zoom_low, help="Smallest zoom factor, drawn for each axis."),
    click.option("--zoom-high", default=RANGES.zoom_high, help="Largest zoom factor."),
    click.option(
        "--horizontal-flip/--no-horizontal-flip",
        default=RANGES.horizontal_flip,
        help="Mirror half of the views.",
    ),
    click.option(
        "--vertical-flip/--no-vertical-flip",
        default=RANGES.vertical_flip,
        help="Turn half of them upside down.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=_default("seed"), help="Seeds the views and random weights."
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default=_default("precision"),
        help="The network's arithmetic; auto: a fast format where your images' features stay the same.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "tensorflow", "openvino"]),
        default=_default("engine"),
        help="What runs the network; auto: TensorFlow on a GPU, else OpenVINO.",
    ),
    click.option("--levels", is_flag=True, help="Also keep what earlier stages of the network see."),
    click.option(
        "--store-dtype",
        type=click.Choice(["float32", "float16"]),
        default=_default("store_dtype"),
        help="float16 halves the store.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        default=_default("max_pixels"),
        help="Skip larger pictures before decoding; JPEGs count after their own scaling.",
    ),
    click.option(
        "--strict", is_flag=True, help="Stop at the first file that cannot be used, instead of skipping it."
    ),
    click.option("--replace", is_flag=True, help="Go on although most stored images are not in DATA."),
    click.option("--device", default=_default("device"), help="auto, cpu, gpu, gpu:N, or gpu:0,gpu:2."),
    click.option(
        "--gpu-memory", type=float, metavar="FRACTION", help="Part of the GPU's memory; grows by default."
    ),
    click.option("--batch-size", default=_default("batch_size"), help="Views in one forward pass, or auto."),
    WORKERS,
    click.option(
        "--image-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=_default("image_timeout"),
        metavar="SECONDS",
        help="Skip a file that takes longer; the next run tries it again.",
    ),
    DASK,
    click.option(
        "--skipped",
        "skipped_csv",
        type=click.Path(path_type=Path),
        metavar="FILE.csv",
        help="Write all skipped files with their reasons.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
)


def extract_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ``featurize extract``."""
    for option in reversed(EXTRACT):
        command = option(command)
    return command
