"""Pillow's pixel modes brought to RGB: alpha over white, any depth to 8 bits."""

import numpy as np
from PIL import Image

_FULL_SCALE_16 = 65535


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as 8-bit RGB, its transparent parts over white.

    16-bit gray is scaled to 8 bits and rounded. 32-bit integers and floats say nothing about what white is:
    they are read on the smallest usual scale that holds the largest value (255, 65535 or 2**31 - 1 for
    integers; 1, 255 or 65535 for floats, beyond that the value itself). Negative or no number: black.
    Colour profiles are not applied, except that CIELAB is taken to sRGB.
    """
    if image.mode.startswith("I;16"):
        return _gray(np.asarray(image), _FULL_SCALE_16, image.info.get("transparency"))
    if image.mode == "I":
        values = np.asarray(image)
        # Pillow spreads PPM over 16 bits whatever its own maximum, so a dark one must not be stretched.
        scales = (_FULL_SCALE_16, 2**31 - 1) if image.format == "PPM" else (255, _FULL_SCALE_16, 2**31 - 1)
        return _gray(values, _smallest_scale(values, scales))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
        return _gray(values, _smallest_scale(values, (1, 255, _FULL_SCALE_16)))
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in {"RGBa", "La"} or image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _smallest_scale(values: np.ndarray, scales: tuple[float, ...]) -> float:
    largest = float(values.max())
    return next((scale for scale in scales if largest <= scale), largest)


def _gray(values: np.ndarray, full_scale: float, transparent: object = None) -> Image.Image:
    shades = np.clip(np.rint(values * (255.0 / full_scale)), 0, 255).astype(np.uint8)
    if isinstance(transparent, int):
        shades = np.where(values == transparent, np.uint8(255), shades)
    return Image.fromarray(shades).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return canvas


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only None in place
    return converted
