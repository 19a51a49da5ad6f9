"""Extraction on Dask workers: the store of a local run, whatever befalls workers, client and scheduler."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize.making import crew

SCRIPT = Path(__file__).resolve().parents[1] / "stand_in.py"
N_IMAGES, VIEWS = 24, 2
FORWARD = N_IMAGES * (1 + VIEWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, so that no two views are alike, and a file that is no picture."""
    root = tmp_path_factory.mktemp("crew") / "noise"
    rng = np.random.default_rng(0)
    for number in range(N_IMAGES):
        folder = root / ("test" if number % 4 == 3 else "train") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (root / "train" / "class0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return root


def run(data, out, *options):
    """Extract in a process of its own."""
    words = [sys.executable, str(SCRIPT), str(data), str(out), "--views", str(VIEWS), *map(str, options)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def facts(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return json.loads(out)


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    """The bytes of the store that a run without Dask makes."""
    out = tmp_path_factory.mktemp("whole")
    facts(run(data, out))
    return (out / "mean+random.h5").read_bytes()


def datasets(content, tmp_path):
    """Return every dataset of a store, and its attributes, as h5py reads them."""
    path = tmp_path / "read.h5"
    path.write_bytes(content)
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
        return found, {key: str(value) for key, value in file.attrs.items()}


def assert_same_store(out, local, tmp_path):
    made = (Path(out) / "mean+random.h5").read_bytes()
    (found, attributes), (expected, expected_attributes) = datasets(made, tmp_path), datasets(local, tmp_path)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert attributes == expected_attributes
    assert made == local
    assert not list(Path(out).glob("*.parts"))


def extract(data, out, machines, **options):
    (result,) = featurize.extract(
        data, backbones=["mean"], weights="random", views=VIEWS, out=out, workers=1,
        dask=machines if isinstance(machines, str) else machines.address, **options,
    )  # fmt: skip
    return result


def forwards(log):
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def wait_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_workers_make_the_store_of_a_local_run_and_share_the_work(
    data, local, stand_in, machines, tmp_path
):
    for _ in range(2):
        machines.worker(delay=0.05)
    machines.wait_for_workers(2)
    seen = []
    result = extract(data, tmp_path / "out", machines, on_progress=lambda *told: seen.append(told))
    assert_same_store(tmp_path / "out", local, tmp_path)
    assert not stand_in.built  # nothing was computed in this process
    assert (result.n_decoded, result.n_forward, len(result.skipped)) == (N_IMAGES + 1, 18 * 3 + 6, 1)
    assert len(result.workers) == 2
    assert sum(rates["pictures"] for rates in result.workers.values()) == N_IMAGES + 1
    extracting = [done for stage, done, _ in seen if stage == "extracting"]
    assert extracting == sorted(extracting)
    assert extracting[-1] == N_IMAGES + 1
    assert extract(data, tmp_path / "out", machines).state == "up to date"


def test_a_worker_is_killed_halfway(data, local, stand_in, machines, tmp_path):
    logs = [tmp_path / "first", tmp_path / "second"]
    workers = [machines.worker(delay=0.05, log=str(log)) for log in logs]
    machines.wait_for_workers(2)
    client = run(data, tmp_path / "out", "--dask", machines.address)
    wait_until(lambda: forwards(logs[0]) >= 6)
    workers[0].kill()
    assert facts(client)["state"] == "made"
    assert_same_store(tmp_path / "out", local, tmp_path)
    assert forwards(logs[1]) > forwards(logs[0])


def test_a_worker_that_hangs_is_left_behind(data, local, stand_in, machines, tmp_path, monkeypatch):
    monkeypatch.setattr("featurize.spreading.SLOW_SECONDS", 2.0)
    logs = [tmp_path / "first", tmp_path / "second"]
    workers = [machines.worker(delay=0.05, log=str(log)) for log in logs]
    machines.wait_for_workers(2)
    monkeypatch.setattr(crew, "_PARTING", 1.0)  # it will not answer
    hung = []

    def hang(*_):
        if not hung and forwards(logs[0]) >= 6:
            workers[0].send_signal(signal.SIGSTOP)
            hung.append(forwards(logs[0]))

    extract(data, tmp_path / "out", machines, on_progress=hang)
    assert hung
    assert_same_store(tmp_path / "out", local, tmp_path)
