"""Extraction that is killed, runs out of disk space, runs twice or has damaged parts: nothing is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "stand_in.py"
N_IMAGES, VIEWS, PART = 24, 2, 4
FORWARD = N_IMAGES * (1 + VIEWS)


def command(data, out, *options):
    """Return the words of a run; an option given twice counts as given last."""
    return [sys.executable, str(SCRIPT), str(data), str(out), "--views", str(VIEWS), "--part", str(PART),
            *map(str, options)]  # fmt: skip


def run(data, out, *options, **settings):
    return subprocess.run(
        command(data, out, *options), capture_output=True, text=True, timeout=120, check=False, **settings
    )


def datasets(path):
    """Return every dataset and attribute of a store but what names the run, as bytes."""
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[:]
                found[name] = list(values) if values.dtype == object else values.tobytes()

        file.visititems(visit)
        found |= {key: str(value) for key, value in file.attrs.items() if key != "created_with"}
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, so that no two views are equal."""
    root = tmp_path_factory.mktemp("survival") / "noise"
    rng = np.random.default_rng(0)
    for number in range(N_IMAGES):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (root / "train" / "class0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return root


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert run(data, out).returncode == 0
    return datasets(out / "mean+random.h5")


def forwards(log):
    return sum(map(int, log.read_text().split())) if log.exists() else 0


@pytest.fixture
def kills(long):
    """The number of times a run is killed."""
    return int(os.environ.get("FOLIO_KILLS", "50" if long else "4"))


@pytest.mark.slow
def test_a_run_killed_at_random_times_is_resumed_with_the_same_result(data, uninterrupted, tmp_path, kills):
    rng = random.Random(0)
    log, out = tmp_path / "log", tmp_path / "out"
    killed = finished = recomputed = 0
    while killed < kills:
        process = subprocess.Popen(command(data, out, "--delay", 0.06, "--log", log), stdout=subprocess.PIPE)
        time.sleep(rng.uniform(0.3, 2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
        store = out / "mean+random.h5"
        if store.exists():  # what is in place is whole, whatever happened
            assert datasets(store) == uninterrupted
            recomputed += forwards(log) - FORWARD
            finished += 1
            for path in sorted(out.glob("**/*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            log.unlink(missing_ok=True)
    final = run(data, out, "--log", log)
    assert final.returncode == 0, final.stderr
    assert datasets(out / "mean+random.h5") == uninterrupted
    recomputed += forwards(log) - FORWARD
    # A kill costs at most the part under way and the batch of four views that straddles its end.
    assert recomputed <= (killed + 1) * (PART * (1 + VIEWS) + 4)
    print(f"{killed} kills, {finished} runs that ended all the same, {recomputed} views computed twice")


@pytest.mark.parametrize(("name", "in_flight"), [("SIGTERM", 1), ("SIGINT", 1), ("SIGINT", 3)])
def test_a_stopped_run_keeps_finished_work(data, uninterrupted, tmp_path, name, in_flight):
    log, out = tmp_path / "log", tmp_path / "out"
    process = subprocess.Popen(
        command(data, out, "--delay", 0.3, "--part", 100, "--log", log, "--in-flight", in_flight),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    while forwards(log) < 3 * (1 + VIEWS) * 2:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    start = time.perf_counter()
    process.communicate(timeout=30)
    assert process.returncode != 0
    if name == "SIGINT":
        assert list((out / "mean+random.h5.parts").glob("*.part"))
        resumed = json.loads(run(data, out).stdout)
        assert resumed["n_resumed"] >= 3
    else:
        assert run(data, out).returncode == 0
    assert time.perf_counter() - start < 60
    assert datasets(out / "mean+random.h5") == uninterrupted


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty"])
def test_a_damaged_part_is_noticed_and_recomputed(data, uninterrupted, tmp_path, damage):
    log, out = tmp_path / "log", tmp_path / "out"
    process = subprocess.Popen(command(data, out, "--delay", 0.2, "--log", log))
    folder = out / "mean+random.h5.parts"
    while len(list(folder.glob("*.part"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    part = sorted(folder.glob("*.part"))[0]
    content = bytearray(part.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    part.write_bytes({"torn": content[:-7], "flipped": content, "empty": b""}[damage])
    before = forwards(log)
    assert run(data, out, "--log", log).returncode == 0
    assert datasets(out / "mean+random.h5") == uninterrupted
    assert forwards(log) - before >= FORWARD - before + PART * (1 + VIEWS) - 4


def test_two_runs_into_one_store_the_second_names_the_first(data, tmp_path):
    out = tmp_path / "out"
    first = subprocess.Popen(command(data, out, "--delay", 0.3), stdout=subprocess.PIPE)
    while not list(out.glob(".*.lock.json")):
        time.sleep(0.02)
    second = run(data, out)
    assert second.returncode == 1
    assert f"process {first.pid} on " in second.stdout
    assert "since 20" in second.stdout
    first.kill()
    first.communicate()
    assert run(data, out).returncode == 0  # a dead holder's lock holds no one up


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize(("limit", "part"), [(55_000, N_IMAGES), (60_000, PART)], ids=["part", "store"])
def test_a_full_disk_loses_nothing(data, uninterrupted, tmp_path, limit, part):
    import resource

    out = tmp_path / "out"
    starved = run(
        data, out, "--part", part,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert starved.returncode == 1, starved.stdout + starved.stderr
    assert "Finished work is kept" in starved.stdout
    assert not (out / "mean+random.h5").exists()
    assert bool(list(out.glob("*.parts/*.part"))) == (part == PART)
    assert run(data, out).returncode == 0
    assert datasets(out / "mean+random.h5") == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from resource")
def test_memory_is_bounded_by_the_batch_and_not_by_the_number_of_images(tmp_path, capsys, long):
    facts = {}
    few, many = (1_000, 12_000) if long else (500, 4_000)
    for n_images in (few, many):
        folder = tmp_path / f"n{n_images}" / "train" / "a"
        folder.mkdir(parents=True)
        for number in range(n_images):
            (folder / f"{number:05}.ppm").write_bytes(b"P6 1 1 255\n" + number.to_bytes(3, "big"))
        done = run(folder.parent.parent, tmp_path / "out", "--part", 256, "--views", 0)
        assert done.returncode == 0, done.stdout + done.stderr
        facts[n_images] = json.loads(done.stdout)
        assert facts[n_images]["n_forward"] == n_images
        (tmp_path / "out" / "mean+random.h5").unlink()
    with capsys.disabled():
        for n_images, each in facts.items():
            print(f"\n{n_images} images: peak {each['peak_mib']:.0f} MiB, "
                  f"largest child {each['children_peak_mib']:.0f} MiB", end="")  # fmt: skip
    for key in ("peak_mib", "children_peak_mib"):
        small, large = facts[few][key], facts[many][key]
        assert large <= max(1.1 * small, small + (90 if long else 45))
