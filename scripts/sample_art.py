"""Abstract artwork for the sample pages: each function fills width x height pixels with four colours."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import ImageDraw

Colour = tuple[int, int, int]
Art = Callable[[ImageDraw.ImageDraw, int, int, random.Random, list[Colour]], None]


def discs(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    x, y = rng.choice((0.0, 0.5, 1.0)) * width, rng.choice((0.0, 0.35, 0.5, 1.0)) * height
    rings = rng.randint(4, 9)
    reach = rng.uniform(0.55, 1.0) * max(width, height)
    for i in range(rings):
        radius = reach * (1 - i / rings)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[i % len(colours)])


def tiles(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    across = rng.randint(2, 5)
    side = width / across
    for j in range(math.ceil(height / side)):
        for i in range(across):
            x, y = i * side, j * side
            draw.rectangle((x, y, x + side, y + side), fill=rng.choice(colours))
            corner_x, corner_y = x + side * rng.choice((0, 1)), y + side * rng.choice((0, 1))
            kind, fill = rng.randrange(4), rng.choice(colours)
            if kind == 0:
                draw.ellipse((x, y, x + side, y + side), fill=fill)
            elif kind == 1:
                draw.polygon(((x, y), (corner_x, y + side), (x + side, corner_y)), fill=fill)
            elif kind == 2:  # a quarter disc, clipped to its tile
                start = {(False, False): 0, (True, False): 90, (True, True): 180, (False, True): 270}
                quarter = start[(corner_x > x, corner_y > y)]
                box = (corner_x - side, corner_y - side, corner_x + side, corner_y + side)
                draw.pieslice(box, quarter, quarter + 90, fill=fill)


def hills(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    sun, x, y = rng.uniform(0.08, 0.2) * width, rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.4) * height
    draw.ellipse((x - sun, y - sun, x + sun, y + sun), fill=colours[0])
    layers = rng.randint(3, 6)
    for layer in range(layers):
        base = height * (0.4 + 0.55 * layer / layers)
        waves = [
            (rng.uniform(0.02, 0.09) * height, rng.uniform(0.5, 3.0), rng.uniform(0, 7)) for _ in range(3)
        ]
        ridge = [
            (i * width / 60, base + sum(a * math.sin(f * 6.28 * i / 60 + p) for a, f, p in waves))
            for i in range(61)
        ]
        draw.polygon([*ridge, (width, height), (0, height)], fill=colours[(layer + 1) % len(colours)])


def bars(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    n, ratio, upright = rng.randint(5, 14), rng.uniform(1.0, 1.35), rng.random() < 0.5
    thickness = [ratio**i for i in range(n)]
    if rng.random() < 0.5:
        thickness.reverse()
    length, at = (width if upright else height), 0.0
    for i, part in enumerate(thickness):
        step = length * part / sum(thickness)
        end = at + step * (0.62 if len(colours) > 3 and n > 8 else 1.0)
        draw.rectangle(
            (at, 0, end, height) if upright else (0, at, width, end), fill=colours[i % len(colours)]
        )
        at += step


def waves(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    n, cycles, phase = rng.randint(6, 18), rng.uniform(0.5, 2.5), rng.uniform(0, 7)
    gap = height / n
    swing, drift = gap * rng.uniform(0.5, 2.5), rng.uniform(-0.3, 0.3)
    for i in range(-3, n + 4):
        line = [
            (x * width / 80, i * gap + swing * math.sin(cycles * 6.28 * x / 80 + phase + drift * i))
            for x in range(81)
        ]
        draw.line(line, fill=colours[i % 2], width=max(1, round(gap * 0.45)), joint="curve")


def dots(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    across = rng.randint(7, 16)
    side, angle = width / across, rng.uniform(0, 6.28)
    for j in range(math.ceil(height / side)):
        for i in range(across):
            x, y = (i + 0.5) * side, (j + 0.5) * side
            along = (math.cos(angle) * (x / width - 0.5) + math.sin(angle) * (y / height - 0.5)) + 0.5
            radius = side * 0.48 * min(1.0, max(0.08, along))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[(i * j) % 7 == 6])


def fan(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    x, y = rng.choice((0.0, 0.5, 1.0)) * width, rng.choice((0.0, 1.0)) * height
    n, reach = rng.randint(12, 36), 2 * max(width, height)
    for i in range(n):
        box = (x - reach, y - reach, x + reach, y + reach)
        draw.pieslice(box, 360 * i / n, 360 * (i + 1) / n, fill=colours[i % 2 if n % 2 == 0 else i % 3])
    hub = rng.uniform(0.15, 0.4) * min(width, height)
    draw.ellipse((x - hub, y - hub, x + hub, y + hub), fill=colours[3])


def blocks(
    draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random, colours: list[Colour]
) -> None:
    side = width / rng.randint(3, 7)
    for j in range(math.ceil(height / (1.5 * side)) + 1):
        for i in range(math.ceil(width / (1.732 * side)) + 1):
            if rng.random() < 0.25:
                continue
            x, y = (i + 0.5 * (j % 2)) * 1.732 * side, j * 1.5 * side
            a, b = 0.866 * side, 0.5 * side
            draw.polygon(((x, y - side), (x + a, y - b), (x, y), (x - a, y - b)), fill=colours[3])
            draw.polygon(((x - a, y - b), (x, y), (x, y + side), (x - a, y + b)), fill=colours[0])
            draw.polygon(((x + a, y - b), (x, y), (x, y + side), (x + a, y + b)), fill=colours[1])


ARTS: tuple[Art, ...] = (discs, tiles, hills, bars, waves, dots, fan, blocks)
