"""Extraction on Dask workers: the same store as in a local run, also after failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import featurize
from featurize import ClusterError, ConfigError, ImageError
from featurize.console import print_summary
from featurize.extraction import dask_client
from featurize.extraction.dask_client import (
    CHUNK_SECONDS,
    FIRST_CHUNK,
    MAX_CHUNK,
    MIN_CHUNK,
    AdaptiveChunks,
)

SCRIPT = Path(__file__).resolve().parents[1] / "stand_in.py"
N_IMAGES, VIEWS = 24, 2
FORWARD = N_IMAGES * (1 + VIEWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, so that no two views are equal, and a file that is not an image."""
    root = tmp_path_factory.mktemp("dask") / "noise"
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
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )


def facts(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return json.loads(out)


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    """The bytes of the store from a run without Dask."""
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
    data, local, stand_in, machines, tmp_path, capsys
):
    for _ in range(2):
        machines.worker(delay=0.05)
    machines.wait_for_workers(2)
    events = []
    result = extract(data, tmp_path / "out", machines, on_progress=lambda *event: events.append(event))
    assert_same_store(tmp_path / "out", local, tmp_path)
    assert not stand_in.built  # nothing was computed in this process
    assert (result.n_decoded, result.n_forward, len(result.skipped)) == (N_IMAGES + 1, 18 * 3 + 6, 1)
    assert len(result.workers) == 2
    assert sum(rates["images"] for rates in result.workers.values()) == N_IMAGES + 1
    extracting = [done for stage, done, _ in events if stage == "extracting"]
    assert extracting == sorted(extracting)
    assert extracting[-1] == N_IMAGES + 1
    assert extract(data, tmp_path / "out", machines).state == "up to date"
    print_summary([result])
    assert "images by Dask worker: tcp://127.0.0.1:" in capsys.readouterr().out


def test_a_worker_is_killed_halfway(data, local, stand_in, machines, tmp_path):
    logs = [tmp_path / "first", tmp_path / "second"]
    workers = [machines.worker(delay=0.05, log=str(log)) for log in logs]
    machines.wait_for_workers(2)
    client = run(data, tmp_path / "out", "--dask", machines.address)
    wait_until(lambda: forwards(logs[0]) >= 6)
    workers[0].kill()
    assert facts(client)["state"] == "created"
    assert_same_store(tmp_path / "out", local, tmp_path)
    assert forwards(logs[1]) > forwards(logs[0])


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(data, local, stand_in, machines, tmp_path, monkeypatch):
    monkeypatch.setattr("featurize.base.dask_jobs.SLOW_SECONDS", 2.0)
    logs = [tmp_path / "first", tmp_path / "second"]
    workers = [machines.worker(delay=0.05, log=str(log)) for log in logs]
    machines.wait_for_workers(2)
    monkeypatch.setattr(dask_client, "_SHUTDOWN_SECONDS", 1.0)  # it will not answer
    hung = []

    def hang(*_):
        if not hung and forwards(logs[0]) >= 6:
            workers[0].send_signal(signal.SIGSTOP)
            hung.append(forwards(logs[0]))

    extract(data, tmp_path / "out", machines, on_progress=hang)
    assert hung
    assert_same_store(tmp_path / "out", local, tmp_path)


def parts(out):
    return list((Path(out) / "mean+random.h5.parts").glob("*.part"))


@pytest.mark.parametrize(("first", "second"), [("dask", "dask"), ("dask", "local"), ("local", "dask")])
def test_a_client_that_is_killed_is_resumed(data, local, machines, tmp_path, first, second):
    log, out = tmp_path / "log", tmp_path / "out"
    machines.worker(delay=0.05, log=str(log))
    options = {"dask": ["--dask", machines.address], "local": ["--log", log, "--delay", 0.05]}
    client = run(data, out, *options[first])
    wait_until(lambda: len(parts(out)) >= 2)
    client.kill()
    client.communicate()
    resumed = facts(run(data, out, *options[second]))
    assert resumed["n_resumed"] >= 4
    assert_same_store(out, local, tmp_path)
    # A killed client loses the current work of its worker: a part and a partial batch.
    assert forwards(log) <= 18 * 3 + 6 + 2 * 4 * 3 + 4


def test_workers_write_what_they_have_finished_when_the_client_is_stopped(data, local, machines, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    machines.worker(delay=0.6, part=100, log=str(log))
    client = run(data, out, "--dask", machines.address)
    wait_until(lambda: forwards(log) >= 12)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=60)
    assert client.returncode != 0
    assert len(parts(out)) == 1  # a whole work unit would have taken longer
    assert not list(out.glob("*.parts/run-*"))
    before = forwards(log)
    time.sleep(1.0)
    assert forwards(log) == before  # the worker is idle
    assert 3 <= facts(run(data, out))["n_resumed"] <= 9  # of a work unit of twelve, which was stopped at once
    assert_same_store(out, local, tmp_path)


@pytest.mark.slow
def test_a_restarted_scheduler_is_used(data, local, stand_in, machines, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    machines.worker(delay=0.05, log=str(log))
    client = run(data, out, "--dask", machines.address)
    wait_until(lambda: len(parts(out)) >= 1)
    for process in machines.processes:
        process.kill()
        process.wait()
    machines.scheduler(address=machines.address)
    machines.worker(delay=0.01, log=str(log))
    assert facts(client)["state"] == "created"
    assert_same_store(out, local, tmp_path)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_no_scheduler_is_one_line(data, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("featurize.base.dask_cluster.CONNECT_SECONDS", 1.0)
    with pytest.raises(ClusterError) as error:
        extract(data, tmp_path / "out", "tcp://127.0.0.1:9")
    assert one_line(error).startswith("--dask tcp://127.0.0.1:9: no scheduler answers at this address (")
    assert "dask scheduler" in str(error.value)


def test_no_worker_is_one_line(data, stand_in, machines, tmp_path, monkeypatch):
    monkeypatch.setattr("featurize.base.dask_cluster.FIRST_WORKER", 1.0)
    with pytest.raises(
        ClusterError, match=f"no usable worker at {machines.address} for [1-9] seconds. Start workers"
    ):
        extract(data, tmp_path / "out", machines)


@pytest.mark.skipif(sys.platform != "linux", reason="a path that each process sees otherwise is Linux' /proc")
@pytest.mark.parametrize("hidden", ["images", "store"])
def test_a_worker_that_sees_other_folders_is_named(data, stand_in, machines, tmp_path, monkeypatch, hidden):
    machines.worker(delay=0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise").symlink_to(data)
    own = Path("/proc/self/cwd")  # visible in this process only, like a drive that is not mounted elsewhere
    images, out = (own / "noise", tmp_path / "out") if hidden == "images" else (data, own / "out")
    notes = []
    with pytest.raises(ClusterError) as error:
        extract(images, out, machines, on_note=notes.append)
    text = one_line(error)
    assert text.startswith(f"worker {machines.address[:16]}")
    assert f" on {os.uname().nodename} does not see {own / 'noise' if hidden == 'images' else out}" in text
    assert f"Mount {own / 'noise' if hidden == 'images' else out} there under the same path" in text
    assert text.startswith(notes[0])


def test_a_worker_with_another_version_is_not_used(data, local, stand_in, machines, tmp_path):
    log = tmp_path / "log"
    machines.worker(version="0.0.9", log=str(log))
    machines.worker(delay=0.01)
    machines.wait_for_workers(2)
    notes = []
    result = extract(data, tmp_path / "out", machines, on_note=notes.append)
    assert_same_store(tmp_path / "out", local, tmp_path)
    assert len(result.workers) == 1
    assert not forwards(log)
    (note,) = notes
    assert "has folio 0.0.9, sources" in note
    assert f"(this run: {featurize.__version__}, sources" in note


def test_a_worker_without_folio_is_named(data, stand_in, machines, tmp_path):
    (tmp_path / "bare.py").write_text("import sys\nsys.modules['featurize'] = None\n")
    machines.worker(preload=tmp_path / "bare.py")
    with pytest.raises(
        ClusterError, match=r"worker tcp://\S+ does not have this version of Folio \(.*with: pip"
    ):
        extract(data, tmp_path / "out", machines)


def test_an_error_on_every_worker_is_reported_and_parts_are_kept(data, local, stand_in, machines, tmp_path):
    out = tmp_path / "out"
    client = run(data, out, "--delay", 0.1)
    wait_until(lambda: parts(out))
    client.kill()
    client.communicate()
    for _ in range(2):
        machines.worker(wrong=True)
    machines.wait_for_workers(2)
    before = set(parts(out))
    with pytest.raises(ClusterError, match=r"failed on each of 2 workers: .*features that are not finite"):
        extract(data, out, machines)
    assert before <= set(parts(out))
    assert facts(run(data, out))["n_resumed"] >= 4
    assert_same_store(out, local, tmp_path)


def test_strict_stops_at_the_first_file_that_cannot_be_used(data, stand_in, machines, tmp_path):
    machines.worker(delay=0.0)
    with pytest.raises(ImageError, match=r"class0.broken\.png: .*\. Repair or remove the file"):
        extract(data, tmp_path / "out", machines, strict=True)


def test_the_gpu_resource_of_workers_decides(data, local, stand_in, machines, tmp_path):
    log = tmp_path / "log"
    machines.worker(log=str(log))
    with pytest.raises(ClusterError, match="offers a GPU, which --device requires"):
        extract(data, tmp_path / "none", machines, device="gpu:0")
    machines.worker(resources="GPU=1", delay=0.0)
    machines.wait_for_workers(2)
    for device in ("gpu:0", "auto"):
        result = extract(data, tmp_path / device, machines, device=device)
        assert len(result.workers) == 1
        assert_same_store(tmp_path / device, local, tmp_path)
    assert not forwards(log)


def test_workers_fit_the_same_statistics_and_choose_the_same_precision(data, stand_in, machines, tmp_path):
    options = {
        "backbones": ["mean", "mean_too"],
        "weights": "random",
        "views": 1,
        "preprocess": "featurewise",
    }
    here = featurize.extract(data, out=tmp_path / "here", workers=1, **options)
    built = len(stand_in.built)
    machines.worker(delay=0.0)
    there = featurize.extract(data, out=tmp_path / "there", workers=1, dask=machines.address, **options)
    assert len(stand_in.built) == built
    for one, other in zip(here, there, strict=True):
        assert one.config["statistics"] is not None
        assert one.config == other.config
        assert one.path.read_bytes() == other.path.read_bytes()


def test_dask_is_checked_before_the_images_are(tmp_path):
    with pytest.raises(ConfigError, match="--dask local:0: expected 1 worker or more"):
        featurize.extract(tmp_path / "none", dask="local:0")


@pytest.mark.long
def test_the_real_network_on_two_local_workers_gives_the_bytes_of_a_local_run(shared_data, tmp_path):
    for folder in sorted((shared_data / "damage3" / "train").iterdir()):
        (tmp_path / "some" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:16]:
            shutil.copy(file, tmp_path / "some" / folder.name)
    options = {"views": 1, "precision": "float32"}
    (here,) = featurize.extract(tmp_path / "some", out=tmp_path / "here", **options)
    (there,) = featurize.extract(tmp_path / "some", out=tmp_path / "there", dask="local:2", **options)
    assert there.workers
    assert here.path.read_bytes() == there.path.read_bytes()


# chunks


@given(st.integers(0, 2000), st.integers(1, 9), st.floats(1e-9, 1e3))
def test_every_item_is_in_one_chunk(n_items, n_workers, item_seconds):
    chunks, taken = AdaptiveChunks(range(n_items)), []
    while (chunk := chunks.take(n_workers)) is not None:
        taken.append(chunk)
        chunks.record(chunk, item_seconds * len(chunk.items))
    assert [item for chunk in taken for item in chunk.items] == list(range(n_items))
    assert [chunk.number for chunk in taken] == list(range(len(taken)))
    assert all(0 < len(chunk.items) <= MAX_CHUNK for chunk in taken)


@pytest.mark.parametrize(
    ("item_seconds", "expected"), [(CHUNK_SECONDS / 40, 40), (1e-6, MAX_CHUNK), (1e6, MIN_CHUNK)]
)
def test_chunks_take_the_target_time(item_seconds, expected):
    chunks = AdaptiveChunks(range(100_000))
    first = chunks.take(2)
    assert len(first.items) == FIRST_CHUNK
    chunks.record(first, item_seconds * FIRST_CHUNK)
    assert len(chunks.take(2).items) == expected


def test_the_last_chunks_are_small_so_that_all_workers_end_together():
    chunks = AdaptiveChunks(range(40))
    # A quarter of the items that are left: 40, 30, 23.
    assert [len(chunks.take(2).items) for _ in range(3)] == [10, 7, 5]
