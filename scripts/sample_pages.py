"""Poster-like pages drawn with Pillow, with adjustable departures from grid, palette and type scale.

A page is laid out in points, 600 wide and 848 high, and rendered at any scale. All grades use the same
layouts, artwork and words; they differ only in `Breaks`.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from sample_art import ARTS, Art, Colour

WIDTH, HEIGHT = 600, 848  # points; close to A4's proportion
MARGIN, GUTTER, COLUMNS, ROWS = 42, 12, 6, 9
CELL_WIDTH = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GUTTER) / COLUMNS
CELL_HEIGHT = (HEIGHT - 2 * MARGIN - (ROWS - 1) * GUTTER) / ROWS
TYPE_SCALE = (
    9.0,
    12.0,
    18.0,
    30.0,
    52.0,
    92.0,
    230.0,
)  # points; a page without departures uses only these sizes

Box = tuple[float, float, float, float]

# Paper, ink, and three accent colours.
PALETTES = (
    ("f4efe6", "1d1d1b", "d8412f", "e9b44c", "2a6f77"),
    ("f7f5f0", "14213d", "fca311", "8d99ae", "c9ced6"),
    ("10212b", "f2e9dc", "ee6c4d", "3d8c95", "98c1d9"),
    ("fbf7ef", "283618", "606c38", "dda15e", "bc6c25"),
    ("edf1f5", "1b263b", "415a77", "e07a5f", "a9bcd0"),
    ("1c1b22", "f5f3ee", "c8553d", "f28f3b", "588b8b"),
    ("fffaf3", "3d2c2e", "b0413e", "ef8354", "f2cc8f"),
    ("eef3ea", "1f3a3d", "3a7d6f", "95c2a1", "f0a868"),
    ("f6eef0", "2b1b2f", "6d3b57", "d57a8c", "f0b7a4"),
    ("22223b", "f2e9e4", "9a8c98", "c9ada7", "e5a36f"),
    ("ffffff", "111111", "e4002b", "111111", "c8c8c8"),
    ("f3ead8", "22333b", "5e503f", "c6ac8f", "a44a3f"),
)

VOCABULARY = (
    "form light harbour signal paper orchard north garden line copper atlas winter river glass thread "
    "field stone tide window linen market bridge amber echo ground salt cedar compass lantern meadow "
    "quarry studio island weather canvas rhythm margin letter shadow colour measure pattern season "
    "north open slow quiet made drawn near after between"
)
WORDS = tuple(VOCABULARY.split())


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """Departures of a page from its grid, palette and type scale: 0 keeps them, 1 ignores them."""

    grid: float
    palette: float
    type: float


@dataclass(kw_only=True)
class Page:
    """A page in progress: image, scale in pixels per point, colours, departures and random generator."""

    image: Image.Image
    scale: float
    colours: list[Colour]
    breaks: Breaks
    rng: random.Random


def draw_page(rng: random.Random, breaks: Breaks, *, scale: float = 1.0) -> Image.Image:
    """Return one page as an RGB image of 600 x 848 points at `scale` pixels per point."""
    colours = broken_palette(rng, breaks.palette)
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    page = Page(
        image=Image.new("RGB", size, colours[0]), scale=scale, colours=colours, breaks=breaks, rng=rng
    )
    if rng.random() < 0.8 * (breaks.palette - 0.3):
        fade(page, random_colour(rng), random_colour(rng))
    rng.choice(LAYOUTS)(page)
    for _ in range(int(max(0.0, rng.gauss(6.0 * (breaks.grid - 0.5), 0.8)))):
        sticker(page)
    return page.image


# ---- colour


def broken_palette(rng: random.Random, amount: float) -> list[Colour]:
    """Return paper, ink, and three accents in order of decreasing contrast; `amount` makes some random."""
    paper, ink, *accents = (rgb(value) for value in rng.choice(PALETTES))
    if rng.random() < 0.25:
        paper, ink = ink, paper
    accents.sort(key=lambda colour: -abs(lightness(colour) - lightness(paper)))
    return [
        random_colour(rng) if rng.random() < chance * (amount - 0.08) else colour
        for colour, chance in zip([paper, ink, *accents], (0.55, 0.5, 0.9, 0.9, 0.9), strict=True)
    ]


def rgb(value: str) -> Colour:
    red, green, blue = bytes.fromhex(value)
    return red, green, blue


def lightness(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def random_colour(rng: random.Random) -> Colour:
    """Return a random saturated colour."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.6, 1.0), rng.uniform(0.65, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def fade(page: Page, top: Colour, bottom: Colour) -> None:
    """Fill the page with a gradient."""
    ramp = Image.linear_gradient("L").resize(page.image.size)
    page.image.paste(Image.composite(solid(page, bottom), solid(page, top), ramp))


def solid(page: Page, colour: Colour) -> Image.Image:
    return Image.new("RGB", page.image.size, colour)


# ---- grid


def cells(page: Page, column: int, row: int, columns: int, rows: int) -> Box:
    """Return the box of some grid cells, moved and resized by the page's departure from the grid."""
    amount, gauss = page.breaks.grid, page.rng.gauss
    width = (columns * (CELL_WIDTH + GUTTER) - GUTTER) * math.exp(gauss(0.0, 0.3 * amount))
    height = (rows * (CELL_HEIGHT + GUTTER) - GUTTER) * math.exp(gauss(0.0, 0.3 * amount))
    x = MARGIN + column * (CELL_WIDTH + GUTTER) + gauss(0.0, 36.0 * amount)
    y = MARGIN + row * (CELL_HEIGHT + GUTTER) + gauss(0.0, 36.0 * amount)
    return x, y, x + width, y + height


def paste(page: Page, image: Image.Image, x: float, y: float, *, mask: Image.Image | None = None) -> None:
    """Paste an image with its top left corner at (x, y), rotated by the page's departure from the grid."""
    mask = mask or Image.new("L", image.size, 255)
    angle = page.rng.gauss(0.0, 9.0 * page.breaks.grid)
    if abs(angle) > 0.8:
        image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        mask = mask.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    page.image.paste(image, (round(x * page.scale), round(y * page.scale)), mask)


def artwork(page: Page, box: Box, art: Art | None = None) -> None:
    """Draw a piece of artwork in a box."""
    width, height = (max(8, round((box[i + 2] - box[i]) * page.scale)) for i in (0, 1))
    ground, *rest = page.rng.sample(page.colours[1:], 4)
    image = Image.new("RGB", (width, height), ground)
    art = art or page.rng.choice(ARTS)
    art(ImageDraw.Draw(image), width, height, page.rng, [*rest, page.colours[0]])
    paste(page, image, box[0], box[1])


def rule(page: Page, box: Box, *, weight: float = 1.0) -> None:
    """Draw a line along the top of a box."""
    x0, y0, x1, _ = (value * page.scale for value in box)
    ImageDraw.Draw(page.image).rectangle((x0, y0, x1, y0 + weight * page.scale), fill=page.colours[1])


def sticker(page: Page) -> None:
    """Add a star-shaped sticker at a random position."""
    x, y, radius = page.rng.uniform(0, WIDTH), page.rng.uniform(0, HEIGHT), page.rng.uniform(15, 70)
    points, inner = page.rng.randint(5, 14), page.rng.uniform(0.4, 0.8)
    outline = [
        (
            (x + radius * (inner if i % 2 else 1.0) * math.cos(math.pi * i / points)) * page.scale,
            (y + radius * (inner if i % 2 else 1.0) * math.sin(math.pi * i / points)) * page.scale,
        )
        for i in range(2 * points)
    ]
    ImageDraw.Draw(page.image).polygon(outline, fill=random_colour(page.rng), outline=random_colour(page.rng))


# ---- type


@lru_cache(maxsize=256)
def font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)


def set_type(
    page: Page, box: Box, string: str, *, step: int, colour: int = 1, bold: float = 0.0, align: str = "left"
) -> float:
    """Set one line in a step of the type scale at the top of a box; return its height in points."""
    amount, rng = page.breaks.type, page.rng
    points = min(TYPE_SCALE[step] * math.exp(rng.gauss(0.0, 0.45 * amount)), 330.0)
    face = font(max(6, round(points * page.scale)))
    stroke = round(page.scale * points * (bold + max(0.0, rng.gauss(0.0, 0.035 * amount))))
    left, top, right, bottom = (round(value) for value in face.getbbox(string, stroke_width=stroke))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), string, fill=255, font=face, stroke_width=stroke)
    if rng.random() < 0.5 * (amount - 0.2):  # stretched type
        mask = mask.resize((max(1, round(mask.width * rng.uniform(0.6, 1.7))), mask.height))
    if rng.random() < 0.6 * (amount - 0.1):
        align = rng.choice(("left", "centre", "right"))
    slack = box[2] - box[0] - mask.width / page.scale
    x = box[0] + {"left": 0.0, "centre": slack / 2, "right": slack}[align]
    ink = random_colour(rng) if rng.random() < 0.5 * (page.breaks.palette - 0.2) else page.colours[colour]
    if step > 1 and rng.random() < 0.7 * (amount - 0.25):  # a drop shadow
        paste(page, Image.new("RGB", mask.size, random_colour(rng)), x + 3, box[1] + 3, mask=mask)
    paste(page, Image.new("RGB", mask.size, ink), x, box[1], mask=mask)
    return mask.height / page.scale


def set_column(page: Page, box: Box, *, step: int = 0, colour: int = 1) -> None:
    """Fill a box with lines of text with a fixed leading."""
    leading = TYPE_SCALE[step] * 1.5 * math.exp(page.rng.gauss(0.0, 0.25 * page.breaks.type))
    width = max(box[2] - box[0], 40.0) * page.scale
    face = font(max(6, round(TYPE_SCALE[step] * page.scale)))
    y = box[1]
    while y + leading <= min(box[3], HEIGHT - 4):
        words = [page.rng.choice(WORDS)]
        while face.getlength(" ".join(words)) < width:
            words.append(page.rng.choice(WORDS))
        line = " ".join(words[:-1]) or words[0]
        set_type(page, (box[0], y, box[2], y), line, step=step, colour=colour)
        y += leading


def title(rng: random.Random, n_words: int) -> str:
    return " ".join(word.capitalize() for word in rng.sample(WORDS, n_words))


def footer(page: Page) -> None:
    """Set the line at the bottom of the page."""
    box = (MARGIN, HEIGHT - MARGIN + 10, WIDTH - MARGIN, HEIGHT)
    set_type(page, box, f"{title(page.rng, 2)}, plate {page.rng.randint(1, 60)}", step=0)
    set_type(page, box, f"{page.rng.randint(1, 12):02d} / 12", step=0, align="right")


# ---- layouts, on a grid of 6 columns and 9 rows


def cover(page: Page) -> None:
    """Draw an artwork over the upper part to the edges, a large title, two narrow columns."""
    rows = page.rng.randint(4, 6)
    shift = page.rng.gauss(0.0, 40.0 * page.breaks.grid)
    artwork(page, (shift, shift, WIDTH + shift, MARGIN + rows * (CELL_HEIGHT + GUTTER) - GUTTER))
    box = cells(page, 0, rows, 6, 1)
    height = set_type(page, (box[0], box[1] + 16, *box[2:]), title(page.rng, 1), step=5, bold=0.015)
    if rows < 6:
        set_type(page, (box[0], box[1] + height + 32, *box[2:]), title(page.rng, 3), step=2, colour=2)
    start = rows + 2 if rows < 6 else 8
    for column in (0, 2):
        set_column(page, cells(page, column, start, 2, 9 - start))
    footer(page)


def editorial(page: Page) -> None:
    """Draw a heading above or below an artwork, a quotation next to it, two or three columns of text."""
    rows, columns = page.rng.randint(3, 5), page.rng.choice((3, 4))
    heading_row, artwork_row = page.rng.choice(((0, 1), (rows, 0)))
    box = cells(page, 0, heading_row, 6, 1)
    rule(page, box, weight=4.0)
    set_type(page, (box[0], box[1] + 18, *box[2:]), title(page.rng, 2), step=4, bold=0.02)
    left = page.rng.random() < 0.5
    artwork(page, cells(page, 0 if left else 6 - columns, artwork_row, columns, rows))
    box = cells(page, columns if left else 0, artwork_row, 6 - columns, rows)
    rule(page, box)
    set_column(page, (box[0], box[1] + 10, box[2], box[1] + 0.55 * (box[3] - box[1])), step=2, colour=2)
    width = page.rng.choice((2, 3))
    for column in range(0, 6, width):
        set_column(page, cells(page, column, rows + 1, width, 8 - rows))
    footer(page)


def gallery(page: Page) -> None:
    """Draw two, four or six artworks with captions: a page of a portfolio."""
    box = cells(page, 0, 0, 6, 1)
    set_type(page, box, title(page.rng, 2), step=3, bold=0.02)
    set_type(page, (box[0], box[1] + 40, *box[2:]), title(page.rng, 4), step=1, colour=2)
    across, down = page.rng.choice(((1, 2), (2, 2), (2, 2), (3, 2), (2, 3)))
    width, height = 6 // across, (8 if down == 2 else 9) // down - (1 if down == 3 else 0)
    one_art = page.rng.choice(ARTS)
    for j in range(down):
        for i in range(across):
            box = cells(page, i * width, 1 + j * height, width, height)
            artwork(page, (*box[:3], box[3] - 22), one_art if page.rng.random() < 0.5 else None)
            set_type(page, (box[0], box[3] - 14, *box[2:]), f"{3 * j + i + 1}  {title(page.rng, 2)}", step=0)
    footer(page)


def letter(page: Page) -> None:
    """Draw a huge letter over a coloured field, with one column of text on the grid."""
    split = page.rng.choice((3, 4, 5))
    shift = page.rng.gauss(0.0, 40.0 * page.breaks.grid)
    edge = MARGIN + split * (CELL_WIDTH + GUTTER) - GUTTER / 2 + shift
    ImageDraw.Draw(page.image).rectangle(
        (0, 0, edge * page.scale, HEIGHT * page.scale), fill=page.rng.choice(page.colours[3:])
    )
    row = page.rng.randint(1, 3)
    set_type(
        page, cells(page, 0, row, split, 3), page.rng.choice("ABCDEFGHKMNPRSTVXZ&237"), step=6, bold=0.03
    )
    artwork(page, cells(page, split, 0, 6 - split, page.rng.randint(3, 5)))
    set_type(page, cells(page, 0, 7, 6, 1), title(page.rng, 2), step=4, colour=1, bold=0.015)
    set_column(page, cells(page, split, 8, 6 - split, 1))
    set_column(page, cells(page, 0, 8, min(split, 3), 1))
    footer(page)


def band(page: Page) -> None:
    """Draw an artwork as a column on one side, a title in two lines, text below."""
    right = page.rng.random() < 0.5
    columns = page.rng.randint(2, 3)
    artwork(page, cells(page, 6 - columns if right else 0, 0, columns, 9))
    first = 0 if right else columns
    box = cells(page, first, page.rng.randint(0, 2), 6 - columns, 2)
    height = set_type(page, box, title(page.rng, 1), step=4, bold=0.02)
    set_type(page, (box[0], box[1] + height + 14, *box[2:]), title(page.rng, 1), step=4, colour=2, bold=0.02)
    row = page.rng.randint(4, 6)
    box = cells(page, first, row, 6 - columns, 1)
    rule(page, box)
    set_column(page, (box[0], box[1] + 12, box[2], box[1] + 80), step=2)
    set_column(page, cells(page, first, row + 1, (6 - columns + 1) // 2 + 1, 8 - row))
    footer(page)


LAYOUTS: tuple[Callable[[Page], None], ...] = (cover, editorial, gallery, letter, band)
