"""Options of the commands of ``featurize``; every default is read from the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featurize.base.terminal import CommaList, default_of, with_options
from featurize.extraction.extract import DEFAULT_BACKBONE, extract
from featurize.extraction.options import VIEWS_FOR
from featurize.images.augment import ViewRanges

RANGES = ViewRanges()


def _default(parameter: str) -> Any:
    return default_of(extract, parameter)


# Options of both `extract` and `scan`.
ORDER = click.option(
    "--order",
    multiple=True,
    type=CommaList(),
    help="Classes from worst to best, for example low,middle,award; may be repeated.",
)
ENTRIES = click.option(
    "--entries",
    type=click.Choice(["folder", "image"]),
    default=_default("entries"),
    help="What is graded as one entry: each folder below a class folder, or each image.",
)
WORKERS = click.option(
    "--workers", type=click.IntRange(1), help="Number of decode processes.  [default: one per core]"
)
DASK = click.option(
    "--dask",
    metavar="ADDRESS|local[:N]",
    help="Compute on Dask workers: those of the scheduler at ADDRESS, or N workers on this machine.",
)
extract_options = with_options(
    click.argument("data", type=click.Path(path_type=Path)),
    click.option(
        "--backbone",
        "backbones",
        multiple=True,
        type=CommaList(),
        help="Names from `featurize backbones`, separated by commas; may be repeated.  "
        f"[default: {DEFAULT_BACKBONE}]",
    ),
    click.option(
        "--views", default=_default("views"), help="Number of augmented views per image; 0 for none."
    ),
    click.option(
        "--views-for",
        type=click.Choice(VIEWS_FOR),
        default=_default("views_for"),
        help="Images that get augmented views: those of the train split, or all.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Folder for the stores.  [default: artifacts/features/DATASET]",
    ),
    click.option(
        "--weights", default=_default("weights"), help="imagenet, random, or the path of a weights file."
    ),
    ORDER,
    ENTRIES,
    click.option(
        "--input-size",
        type=click.IntRange(1),
        help="Side of the network's input in pixels.  [default: depends on the backbone]",
    ),
    click.option(
        "--resize",
        type=click.Choice(["squash", "crop", "pad"]),
        default=_default("resize"),
        help="How an image becomes a square: stretched, cropped to its centre, or padded with white.",
    ),
    click.option(
        "--resample",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
        default=_default("resample"),
        help="Filter for resizing; all but nearest are antialiased.",
    ),
    click.option(
        "--preprocess",
        type=click.Choice(["native", "rescale", "featurewise"]),
        default=_default("preprocess"),
        help="Scaling of the input: native is the backbone's own; rescale is 1/255; featurewise is 1/255, "
        "then standardised with the mean and deviation of the training images.",
    ),
    click.option("--rotation", default=RANGES.rotation, help="Largest rotation of a view, in degrees."),
    click.option("--width-shift", default=RANGES.width_shift, help="Largest width shift, as a fraction."),
    click.option("--height-shift", default=RANGES.height_shift, help="Largest height shift, as a fraction."),
    click.option(
        "--shear",
        default=RANGES.shear,
        help="Largest shear, in degrees as in Keras: 0.2 has almost no effect.",
    ),
    click.option(
        "--zoom-low",
        default=RANGES.zoom_low,
        help="Smallest zoom factor, drawn for each axis; below 1 magnifies.",
    ),
    click.option("--zoom-high", default=RANGES.zoom_high, help="Largest zoom factor."),
    click.option(
        "--horizontal-flip/--no-horizontal-flip",
        default=RANGES.horizontal_flip,
        help="Mirror half of the views left to right.",
    ),
    click.option(
        "--vertical-flip/--no-vertical-flip",
        default=RANGES.vertical_flip,
        help="Mirror half of the views top to bottom.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=_default("seed"),
        help="Seed of the views and of random weights.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default=_default("precision"),
        help="Arithmetic of the network; auto tests a faster format on your images and uses it if their "
        "features stay practically the same.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "tensorflow", "openvino"]),
        default=_default("engine"),
        help="Library that runs the network; auto is TensorFlow on a GPU, else OpenVINO.",
    ),
    click.option("--levels", is_flag=True, help="Also store the features of earlier stages of the network."),
    click.option(
        "--store-dtype",
        type=click.Choice(["float32", "float16"]),
        default=_default("store_dtype"),
        help="Data type of stored features; float16 halves the size of the store.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        default=_default("max_pixels"),
        help="Skip larger images before decoding; a JPEG counts at the reduced scale at which it is decoded.",
    ),
    click.option(
        "--strict", is_flag=True, help="Stop at the first file that cannot be used, instead of skipping it."
    ),
    click.option(
        "--replace", is_flag=True, help="Continue even if most images of the store are not in DATA."
    ),
    click.option(
        "--device",
        default=_default("device"),
        help="auto, cpu, gpu, gpu:N, or several GPUs such as gpu:0,gpu:2.",
    ),
    click.option(
        "--gpu-memory",
        type=float,
        metavar="FRACTION",
        help="Fraction of GPU memory to reserve.  [default: grows as needed]",
    ),
    click.option(
        "--batch-size", default=_default("batch_size"), help="Number of views per forward pass, or auto."
    ),
    WORKERS,
    click.option(
        "--image-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=_default("image_timeout"),
        metavar="SECONDS",
        help="Skip a file that takes longer to decode; the next run tries it again.",
    ),
    DASK,
    click.option(
        "--skipped",
        "skipped_csv",
        type=click.Path(path_type=Path),
        metavar="FILE.csv",
        help="Write a table of all skipped files with reasons.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
)
