"""Malformed and hostile files in the real decode processes: decoded, or skipped with the right reason."""

from __future__ import annotations

import io
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from featurize.images.augment import ViewRanges
from featurize.images.pool import DECODE_MEMORY, Decoder, DecodeRequest, decode_all
from featurize.images.render import RenderSettings
from featurize.images.skip_reasons import SKIP_REASONS

RENDERING = RenderSettings(
    size=32, resize="squash", resample="bicubic", max_pixels=20_000_000, ranges=ViewRanges(), seed=0
)
CRASHED = ("decoder crashed", "timed out")


def decode(paths, **options):
    """Return the problem of each file, "" for an image; an image is always complete."""
    problems = []
    for decoded in decode_all([DecodeRequest(path=path) for path in paths], RENDERING, workers=2, **options):
        problems.append(decoded.problem)
        if decoded.problem:
            assert decoded.problem.startswith(SKIP_REASONS), decoded.problem
            assert "\n" not in decoded.problem
        else:
            assert decoded.views[0].shape == (32, 32, 3)
    return problems


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def samples() -> dict[str, bytes]:
    """Return one small good file of each common kind."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    small = image.resize((9, 7))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encoded(small, "JPEG", exif=exif),
        "progressive": encoded(small, "JPEG", progressive=True),
        "png": encoded(small, "PNG"),
        "gif": encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
        "webp": encoded(small, "WEBP", save_all=True, append_images=[small.rotate(180)]),
        "tiff": encoded(small, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(small, "BMP"),
        "jpeg2000": encoded(image, "JPEG2000"),
        "mpo": encoded(small, "MPO", save_all=True, append_images=[small]),
        "ico": encoded(image.resize((16, 16)), "ICO"),
        "ppm": encoded(small, "PPM"),
        "tga": encoded(small, "TGA"),
        "pcx": encoded(small, "PCX"),
    }


def write_all(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    folder.mkdir()
    paths = []
    for name, content in contents.items():
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.slow
def test_thousands_of_damaged_files_neither_crash_nor_hang(tmp_path, capsys):
    rng = random.Random(0)
    cases: dict[str, bytes] = {}
    for kind, data in samples().items():
        step = max(1, len(data) // 250)
        for length in range(0, len(data), step):
            cases[f"{kind}-cut-{length}"] = data[:length]
        for number in range(100):
            flipped = bytearray(data)
            for _ in range(rng.choice([1, 1, 2, 8])):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            cases[f"{kind}-flip-{number}"] = bytes(flipped)
        for number in range(20):
            cases[f"{kind}-noise-{number}"] = data[: rng.randrange(4, 40)] + rng.randbytes(rng.randrange(300))
    for number in range(200):
        cases[f"random-{number}"] = rng.randbytes(rng.randrange(2000))
    problems = decode(write_all(tmp_path / "cases", cases), image_timeout=60)
    reasons = Counter(problem.split(":")[0] or "graded" for problem in problems)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    with capsys.disabled():
        print(f"\n{len(problems)} damaged files: {dict(reasons)}; largest process {peak:.0f} MiB")
    assert len(problems) >= 3000
    assert not [problem for problem in problems if problem.startswith(CRASHED)]
    assert reasons["graded"]
    assert reasons["truncated"]
    assert reasons["not an image"]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_declaring(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + end


def png_with_text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 300_000_000, 9))
    good = encoded(Image.new("RGB", (8, 8), "red"), "PNG")
    return good[:33] + text + good[33:]


def gif_declaring(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    place = data.index(b"\x2c") + 5
    data[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff_declaring(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (4, 4)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * entry
        tag, _ = struct.unpack_from("<HH", data, place)
        if tag in (256, 257):
            value = {256: width, 257: height}[tag]
            struct.pack_into("<HHII", data, place, tag, 4, 1, value)
    return bytes(data)


def odd_files() -> dict[str, tuple[bytes, str]]:
    """Return content and the start of the expected problem, "" for an image and "?" for either."""
    good = Image.new("RGB", (40, 30), (10, 200, 30))
    broken_exif = encoded(good, "JPEG").replace(
        b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff", 1
    )
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "hello")
    tall = Image.new("L", (1, 30000), 50)
    return {
        "one pixel.png": (encoded(Image.new("RGB", (1, 1), "red"), "PNG"), ""),
        "tall.png": (encoded(tall, "PNG"), ""),
        "wide.jpg": (encoded(tall.transpose(Image.Transpose.ROTATE_90), "JPEG"), ""),
        "no size.png": (png_declaring(0, 0), "?"),
        "bomb.png": (png_declaring(60_000, 60_000), "too many pixels"),
        "huge.png": (png_declaring(2**31 - 1, 2**31 - 1), "too many pixels"),
        "bomb.gif": (gif_declaring(65_535, 65_535), "too many pixels"),
        "bomb.tif": (tiff_declaring(100_000, 100_000), "too many pixels"),
        "text bomb.png": (png_with_text_bomb(), "?"),
        "text.png": (encoded(good, "PNG", pnginfo=info), ""),
        "broken exif.jpg": (broken_exif, ""),
        "broken icc.jpg": (encoded(good, "JPEG", icc_profile=b"no profile"), ""),
        "icc.jpg": (encoded(good, "JPEG", icc_profile=profile), ""),
        "mpo.jpg": (encoded(good, "MPO", save_all=True, append_images=[good]), ""),
        "animated.webp": (encoded(good, "WEBP", save_all=True, append_images=[good.rotate(9)]), ""),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        "words.jpg": (b"these are words\n" * 100, "not an image"),
        "empty.jpg": (b"", "empty file"),
        "-rf.png": (encoded(good, "PNG"), ""),
        "line\nbreak 'and\" quotes.png": (encoded(good, "PNG"), ""),
        os.fsdecode(b"bytes \xff\xfe.png"): (encoded(good, "PNG"), ""),
        "x" * 240 + ".png": (encoded(good, "PNG"), ""),
    }


def test_odd_and_hostile_files_have_the_expected_problem(tmp_path):
    cases = odd_files()
    paths = write_all(tmp_path / "odd", {name: content for name, (content, _) in cases.items()})
    problems = decode(paths)
    outcomes = dict(zip(cases, problems, strict=True))
    for name, (_, expected) in cases.items():
        if expected != "?":
            assert outcomes[name].startswith(expected), (name, outcomes[name])
            assert bool(outcomes[name]) == bool(expected), (name, outcomes[name])
    assert not [problem for problem in problems if problem.startswith(CRASHED)]


@pytest.mark.skipif(os.name == "nt", reason="names that only POSIX has")
def test_special_files_are_never_waited_for(tmp_path):
    good = encoded(Image.new("RGB", (4, 4)), "PNG")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "good.png")
    (tmp_path / "good.png").write_bytes(good)
    names = ["folder.jpg", "pipe.jpg", "socket.jpg", "dangling.jpg", "loop.jpg", "gone.jpg", "link.jpg"]
    problems = decode([tmp_path / name for name in names], image_timeout=20)
    expected = ["not a regular file"] * 3 + ["unreadable"] * 3 + [""]
    assert [problem.split(":")[0] for problem in problems] == expected


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert decode([path])[0].startswith("unreadable")


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Images during which the decode process hangs or dies, depending on the name of the file."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "sitecustomize.py").write_text(
        "import os, signal, time\nimport featurize.images.render as r\nreal = r.render\n"
        "def render(request, *rest):\n"
        "    if request['path'].endswith('hang.png'):\n        time.sleep(1e6)\n"
        "    if request['path'].endswith('crash.png'):\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return real(request, *rest)\n"
        "r.render = render\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{stub}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    paths = [tmp_path / name for name in ("good.png", "hang.png", "crash.png", "last.png")]
    for path in paths:
        Image.effect_noise((8, 8), 50).save(path)
    return paths


def test_a_file_that_hangs_or_kills_its_process_affects_no_other(deadly):
    requests = [DecodeRequest(path=path) for path in deadly]
    problems = [d.problem for d in decode_all(requests, RENDERING, workers=1, image_timeout=3)]
    assert problems == [
        "",
        "timed out: not decoded within 3 seconds",
        "decoder crashed: it ended with signal 11",
        "",
    ]


def test_only_the_file_that_kills_its_process_is_blamed(deadly, tmp_path):
    """Other files wait in the pipe of that process, or their replies have not been read yet."""
    good, crash = deadly[0], deadly[2]
    paths = [crash if number % 7 == 3 else good for number in range(25)]
    problems = [
        d.problem for d in decode_all([DecodeRequest(path=path) for path in paths], RENDERING, workers=2)
    ]
    assert problems == [
        "decoder crashed: it ended with signal 11" if number % 7 == 3 else "" for number in range(25)
    ]


def test_a_file_is_not_overdue_because_its_reply_was_not_read(deadly):
    """The consumer of the images may pause for longer than the timeout of a file."""
    with Decoder(RENDERING, most_views=1, workers=1, image_timeout=2) as decoder:
        problems = []
        for decoded in decoder.decode([DecodeRequest(path=deadly[0])] * 6):
            problems.append(decoded.problem)
            time.sleep(2.5 if len(problems) == 1 else 0)
    assert problems == [""] * 6


def test_a_file_that_exceeds_the_memory_limit_affects_no_other(tmp_path):
    greedy, good = tmp_path / "greedy.png", tmp_path / "good.png"
    Image.new("RGB", (4400, 4400)).save(greedy)  # 19 megapixels, 58 MB as pixels
    Image.effect_noise((40, 40), 50).save(good)
    requests = [DecodeRequest(path=path) for path in (greedy, good)]
    problems = [
        decoded.problem for decoded in decode_all(requests, RENDERING, workers=1, memory_bytes=50_000_000)
    ]
    assert problems[0].startswith(("damaged: not enough memory", "decoder crashed"))
    assert problems[1] == ""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    picture = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(picture)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from featurize.images.pool import DecodeRequest, decode_all\n"
        "from featurize.images.render import RenderSettings\n"
        "from featurize.images.augment import ViewRanges\n"
        "r = RenderSettings(size=8, resize='squash', resample='bicubic',"
        " max_pixels=99, ranges=ViewRanges(), seed=0)\n"
        f"requests = [DecodeRequest(path=Path({str(picture)!r}))] * 50\n"
        "stream = decode_all(requests, r, workers=1)\nnext(stream)\n"
        "import gc\nfrom featurize.images.worker import Worker\n"
        "print(*[w.process.pid for w in gc.get_objects() if isinstance(w, Worker)], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    children = result.stdout.split()
    assert children, result.stderr
    for _ in range(100):
        alive = [pid for pid in children if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_the_stated_memory_bound_is_the_one_in_force():
    assert DECODE_MEMORY == 3 * 2**30
