"""Seeded affine augmentation: parameters of views, and their rendering with OpenCV.

Parameters have the same meaning as in Keras' legacy ``ImageDataGenerator`` with ``fill_mode="nearest"``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurize.errors import ConfigError

PLAIN = 0  # number of the plain view; augmented views are numbered from 1


@dataclass(frozen=True, kw_only=True)
class ViewRanges:
    """Ranges from which the parameters of augmented views are drawn uniformly.

    As in Keras, `height_shift` bounds ``tx`` and `width_shift` bounds ``ty``, although ``tx`` shifts an image
    along its width since Keras changed its matrix to (x, y) order.
    """

    rotation: float = 40.0  # degrees, in both directions
    width_shift: float = 0.2  # fraction of the size, in both directions
    height_shift: float = 0.2  # fraction of the size, in both directions
    shear: float = 0.2  # degrees, as in Keras: 0.2 has almost no effect
    zoom_low: float = 0.8  # below 1 magnifies; drawn separately for each axis
    zoom_high: float = 1.2
    horizontal_flip: bool = True
    vertical_flip: bool = False

    def __post_init__(self) -> None:
        """Raise a ConfigError for invalid ranges."""
        _check_range("rotation", self.rotation, 0, 180)
        _check_range("shear", self.shear, 0, 89)
        # In Keras a shift of 1 or more is in pixels; here it is always a fraction.
        _check_range("width shift", self.width_shift, 0, 0.99)
        _check_range("height shift", self.height_shift, 0, 0.99)
        _check_range("zoom", self.zoom_low, 0.01, 100)
        _check_range("zoom", self.zoom_high, 0.01, 100)
        if self.zoom_low > self.zoom_high:
            raise ConfigError(
                f"The zoom range {self.zoom_low} to {self.zoom_high} is empty. Give the lower end first"
            )


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Parameters of one affine view, with the names and units of Keras' ``apply_transform``."""

    theta: float = 0.0  # degrees
    tx: float = 0.0  # pixels
    ty: float = 0.0  # pixels
    shear: float = 0.0  # degrees
    zx: float = 1.0
    zy: float = 1.0
    flip_horizontal: bool = False
    flip_vertical: bool = False


def view_parameters(sha256: str, view: int, *, ranges: ViewRanges, seed: int, size: int) -> ViewParameters:
    """Draw the parameters of one augmented view.

    They depend only on the arguments, so a view is the same in any order, process or resumed run. Each
    parameter has a fixed position in the random stream: changing one range does not change the others.

    Parameters
    ----------
    sha256 : str
        Hash of the file content, hexadecimal.
    view : int
        Number of the augmented view, from 1.
    ranges : ViewRanges
        Ranges of the parameters.
    seed : int
        Seed of the augmentation.
    size : int
        Side of the square image in pixels; shifts are fractions of it.

    Returns
    -------
    ViewParameters

    References
    ----------
    Philox4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if view < 1:
        raise ConfigError(f"There is no augmented view {view}. Views are numbered from 1")
    digest = hashlib.sha256(f"{seed}/{sha256}/{view}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    # NumPy may change how its distributions use the stream, but the output of random_raw is fixed.
    raw = np.random.Philox(key=key).random_raw(8)
    unit = [int(word >> np.uint64(11)) * 2.0**-53 for word in raw]  # each in [0, 1)
    return ViewParameters(
        theta=_between(unit[0], -ranges.rotation, ranges.rotation),
        tx=_between(unit[1], -ranges.height_shift, ranges.height_shift) * size,
        ty=_between(unit[2], -ranges.width_shift, ranges.width_shift) * size,
        shear=_between(unit[3], -ranges.shear, ranges.shear),
        zx=_between(unit[4], ranges.zoom_low, ranges.zoom_high),
        zy=_between(unit[5], ranges.zoom_low, ranges.zoom_high),
        flip_horizontal=ranges.horizontal_flip and unit[6] < 0.5,
        flip_vertical=ranges.vertical_flip and unit[7] < 0.5,
    )


def render_view(pixels: npt.NDArray[np.uint8], parameters: ViewParameters) -> npt.NDArray[np.uint8]:
    """Return one view of an image: one bilinear affine warp with replicated border pixels.

    Parameters
    ----------
    pixels : ndarray of shape (size, size, 3), uint8
        Left unchanged.
    parameters : ViewParameters
        Parameters of the view.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8
        Within one gray level of Keras' legacy ``apply_transform`` on the same pixels as float32.
    """
    view = np.empty_like(pixels)
    render_views(pixels, [parameters], [view])
    return view


def render_views(
    pixels: npt.NDArray[np.uint8],
    parameters: Iterable[ViewParameters],
    outputs: Iterable[npt.NDArray[np.uint8]],
) -> None:
    """Render several views of an image into `outputs`, arrays like `pixels`; see `render_view`."""
    import cv2

    if pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.dtype != np.uint8:
        raise ValueError(
            f"Expected square uint8 pixels (size, size, 3). Received {pixels.dtype} {pixels.shape}"
        )
    size = pixels.shape[0]
    # OpenCV warps four channels in three quarters of the time of three.
    four_channels = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
    warped = np.empty_like(four_channels)
    for view, output in zip(parameters, outputs, strict=True):
        # OpenCV 5 interpolates at exact coordinates; earlier versions rounded them to 1/32 pixel.
        cv2.warpAffine(
            four_channels,
            _matrix(view, size)[:2],
            (size, size),
            dst=warped,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=output)


def _matrix(parameters: ViewParameters, size: int) -> npt.NDArray[np.float64]:
    """Return the (3, 3) matrix that maps a pixel (x, y, 1) of the view to coordinates in the image."""
    theta, shear = math.radians(parameters.theta), math.radians(parameters.shear)
    rotation = np.array(
        [[math.cos(theta), -math.sin(theta), 0], [math.sin(theta), math.cos(theta), 0], [0, 0, 1]]
    )
    shift = np.array([[1, 0, parameters.tx], [0, 1, parameters.ty], [0, 0, 1]])
    sheared = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
    # A flip of the finished view mirrors its coordinates about the centre before all other steps.
    mirror_x, mirror_y = (-1 if parameters.flip_horizontal else 1), (-1 if parameters.flip_vertical else 1)
    zoom = np.diag([parameters.zx * mirror_x, parameters.zy * mirror_y, 1])
    centre = size / 2 - 0.5
    to_centre = np.array([[1, 0, -centre], [0, 1, -centre], [0, 0, 1]])
    from_centre = np.array([[1, 0, centre], [0, 1, centre], [0, 0, 1]])
    return from_centre @ rotation @ shift @ sheared @ zoom @ to_centre


def _between(unit: float, low: float, high: float) -> float:
    return low + (high - low) * unit


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise ConfigError(f"The {name} range {value} is invalid. Expected a number from {low} to {high}")
