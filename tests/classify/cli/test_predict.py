"""`classify predict` on a folder of whatever anyone put there: a row for each file, and nothing run."""

import csv
import io
import json
import os
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

RED = (230, 20, 20)

# As bytes, the names that a file system takes; and how they are shown.
NAMES = {
    b"<img src=x onerror=alert(1)>.png": "<img src=x onerror=alert(1)>.png",
    b"=cmd calc.png": "=cmd calc.png",
    b"\x1b[2J\x1b[31mred\x07.png": r"\x1b[2J\x1b[31mred\x07.png",
    b"line\nbreak\r\ttab.png": r"line\nbreak\r\ttab.png",
    "photo\u202egnp.exe".encode(): r"photo\u202egnp.exe",
    b"latin \xe9\xff.png": r"latin \xe9\xff.png",
    "Ärger 图 🎨.png".encode(): "Ärger 图 🎨.png",
    b"[bold red]markup[link=x].png": "[bold red]markup[link=x].png",
    b"-n --out x.png": "-n --out x.png",
    b"w" * 251 + b".png": "w" * 251 + ".png",
}


def large_png(side: int = 10_000) -> bytes:
    """Return a red PNG of 100 megapixels, written row by row."""
    packing, row = zlib.compressobj(1), b"\0" + bytes(RED) * side
    return png(side, b"".join([*(packing.compress(row) for _ in range(side)), packing.flush()]))


def png(side: int, rows: bytes) -> bytes:
    """Return a PNG that says it has so many pixels a side, with these compressed rows."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + rows, b"IEND"]
    packed = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture(scope="module")
def folder(coloured, tmp_path_factory):
    """The folder, and of each file in it how it is shown, its grade and its problem."""
    place = tmp_path_factory.mktemp("work") / "new"
    place.mkdir()
    good, expected = coloured.picture(RED), {}

    def add(name, data, *, shown=None, problem=""):
        with open(os.fsencode(place) + b"/" + name, "wb") as file:
            file.write(data)
        expected[shown or name.decode()] = ("" if problem else "award", problem)

    for name, shown in NAMES.items():
        add(name, good, shown=shown)
    file = io.BytesIO()
    Image.new("RGB", (10_000, 10_000), RED).save(file, "JPEG")
    add(b"100 megapixels.jpg", file.getvalue())
    add(b"100 megapixels.png", large_png())
    add(b"one pixel.png", coloured.picture(RED, size=(1, 1)))
    add(b"a strip.png", coloured.picture(RED, size=(5000, 1)))
    add(b"2500 megapixels.png", png(50_000, zlib.compress(bytes(1000))), problem="too many pixels: ")
    add(b"cut short.png", good[:70], problem="truncated")
    add(b"empty.png", b"", problem="empty file")
    add(b"a song.mp3", b"ID3" + bytes(range(256)), problem="not an image")
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "pipe.png")
        expected["pipe.png"] = ("", "not a regular file")
    (place / "circle").symlink_to(place, target_is_directory=True)
    (place / "dangling.png").symlink_to(place / "nowhere")
    return place, expected


@pytest.fixture(scope="module")
def predict(folder, coloured, coloured_bundle):
    """Run `classify predict` on the folder; return what it wrote to stdout, byte by byte."""

    def run(*options: str) -> bytes:
        words = [coloured.__file__, "predict", str(coloured_bundle), folder[0].name, *options]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder[0].parent,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert not set(done.stderr) & set(range(32)) - {10}
        return done.stdout

    return run


def check(rows, expected):
    """Compare path, grade and problem of rows with what was put there."""
    said = {path.partition("new/")[2]: (grade, problem) for path, grade, problem in rows}
    assert len(said) == len(rows)
    assert set(expected) <= set(said)
    for name, (grade, problem) in expected.items():
        assert said[name][0] == grade, name
        assert said[name][1].startswith(problem), name
        assert bool(said[name][1]) is bool(problem), name


def test_as_json(folder, predict):
    raw = predict("--json")
    assert raw.isascii()
    rows = [(row["path"], row["grade"] or "", row["problem"]) for row in json.loads(raw)]
    check(rows, folder[1])


def test_as_csv(folder, predict):
    said = predict("--out", "grades.csv")
    assert said.endswith(b" failed: grades.csv\n")
    text = (folder[0].parent / "grades.csv").read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.count("\n") == len(rows) + 1  # one line each: no name breaks it
    assert not {c for c in text if ord(c) < 32} - set("\r\n")
    check([(row["path"], row["grade"], row["problem"]) for row in rows], folder[1])
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_as_a_table(folder, predict):
    text = predict().decode()
    assert not {c for c in text if ord(c) < 32 or c in "\x7f\x85\u2028\u202e"} - {"\n"}
    joined = "".join(text.split())
    for name, (_, problem) in folder[1].items():
        if len(name) < 40:
            assert "".join(name.split()) in joined, name
        assert "".join(problem.split()) in joined
