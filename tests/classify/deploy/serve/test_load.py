"""Fifty clients at once with good, broken and malicious files: each is answered, memory is bounded."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.deploy.serve.predictor import MAX_WORKERS
from classify.io.bundle import load_bundle
from featurize.base.cores import available_cores

MiB = 2**20
LARGE = 10_000  # pixels of a side: 100 megapixels
# What a decode process may add: such a picture as RGB, twice while it is converted, and the file. Fifty of
# them at once would be 30 GiB.
MOST_A_WORKER = 2 * 3 * LARGE**2 + 64 * MiB


def png(side: int, rows: bytes) -> bytes:
    """Return a PNG that says it has so many pixels a side, with these compressed rows."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + rows, b"IEND"]
    packed = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def large_png(colour: tuple[int, int, int]) -> bytes:
    """Return a PNG of one colour, which need not be held in memory to be written."""
    packing = zlib.compressobj(1)
    row = b"\0" + bytes(colour) * LARGE
    return png(LARGE, b"".join([*(packing.compress(row) for _ in range(LARGE)), packing.flush()]))


def large_jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (LARGE, LARGE), colour).save(file, "JPEG", quality=90)
    return file.getvalue()


class Memory:
    """Watches what a process and its children hold together, in bytes."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self.at_rest = pid, 0, self.now(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self.now(self.pid))

    @staticmethod
    def now(pid: int) -> int:
        """Return resident bytes of a process and all below it; what is shared counts in each."""
        total, page = 0, os.sysconf("SC_PAGESIZE")
        left = [pid]
        while left:
            one = left.pop()
            try:
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
                for task in Path(f"/proc/{one}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
            except OSError:  # it has ended
                continue
        return total


def mixture(coloured, n: int, *, large: int) -> list[tuple[str, bytes, int, str]]:
    """Return name, content, expected status and what the answer has to say of n uploads."""
    ordinary = coloured.picture((120, 130, 140), size=(400, 300), kind="JPEG")
    kinds = [
        ("truncated.jpg", ordinary[: len(ordinary) // 2], 422, "truncated"),
        ("a song.mp3.png", b"ID3" + bytes(range(256)) * 40, 415, "not an image"),
        ("empty.png", b"", 422, "empty file"),
        (
            "huge.png",
            b"\x89PNG" + bytes(2_199_996),
            413,
            "too large: 2.2 MB, the limit is 2 MB (--max-upload)",
        ),
        ("bomb.png", png(50_000, zlib.compress(bytes(1000))), 413, "too many pixels"),
    ]
    found = []
    for k in range(n):
        if k % 5 == 4:
            found.append(kinds[k // 5 % len(kinds)])
            continue
        grade = coloured.CLASSES[k % 3]
        colour = coloured.colour(grade, k % coloured.N_IMAGES)
        if k < large * 5:
            name, data = ("large.png", large_png(colour)) if k % 2 else ("large.jpg", large_jpeg(colour))
        elif k % 7 == 0:
            name, data = "one pixel.png", coloured.picture(colour, size=(1, 1))
        else:
            name, data = f"{k}.png", coloured.picture(colour)
        found.append((f"{k} {name}", data, 200, grade))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="memory of processes is read from /proc")
@pytest.mark.parametrize(
    ("n_rounds", "large"), [(1, 1), pytest.param(2, 3, marks=pytest.mark.long)], ids=["lean", "full"]
)
def test_fifty_at_once(start, bundle, coloured, capsys, n_rounds, large):
    server = start(bundle, "--max-upload", "2")
    uploads = mixture(coloured, 50, large=large)
    together = threading.Barrier(len(uploads))

    def send(upload):
        together.wait()
        return [server.grade((upload[0], upload[1])) for _ in range(n_rounds)]

    begun = time.monotonic()
    with Memory(server.process.pid) as memory, ThreadPoolExecutor(len(uploads)) as clients:
        replies = list(clients.map(send, uploads))
    seconds = time.monotonic() - begun
    with capsys.disabled():
        print(
            f"\n{len(uploads)} clients, {len(uploads) * n_rounds} requests in {seconds:.1f} s; memory of all "
            f"processes {memory.at_rest / MiB:.0f} MiB at rest, {memory.peak / MiB:.0f} MiB at most"
        )
    for (name, _, status, said), answers in zip(uploads, replies, strict=True):
        for reply in answers:
            assert reply.status == status, (name, reply.body)
            if status == 200:
                (row,) = reply.json
                assert (row["path"], row["grade"], row["problem"]) == (name, said, "")
            else:
                (row,) = reply.json["grades"]
                assert reply.json["error"].startswith(said)
                assert (row["path"], row["grade"], row["problem"]) == (name, None, reply.json["error"])
    workers = min(available_cores(), MAX_WORKERS)
    assert memory.peak < memory.at_rest + workers * MOST_A_WORKER
    assert server.ask("GET", "/health").json == {"status": "ok"}
    assert server.left() == ["in-use"]
    assert server.errors.read_text() == ""


def test_each_answer_is_that_of_its_own_image(server, bundle_with_examples, coloured):
    loaded = load_bundle(bundle_with_examples)
    colours = [(5 * k, 250 - 4 * k, 7 * k % 251) for k in range(50)]
    expected = loaded.predict_proba(np.array(colours, dtype=np.float32), loaded.manifest["config_digest"])
    assert len({tuple(row) for row in expected.round(6)}) == 50
    with ThreadPoolExecutor(50) as clients:
        replies = list(clients.map(lambda c: server.grade((f"{c}.png", coloured.picture(c))), colours))
    for colour, reply, row in zip(colours, replies, expected, strict=True):
        (said,) = reply.json
        assert said["path"] == f"{colour}.png"
        np.testing.assert_allclose(list(said["probabilities"].values()), row, atol=1e-6)
