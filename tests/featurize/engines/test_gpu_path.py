"""The GPU path, run on logical CPU devices in place of GPUs: see two_devices.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def seen():
    script = Path(__file__).with_name("two_devices.py")
    process = subprocess.run(
        [sys.executable, str(script)],
        # Where its allocator is oneDNN's, TensorFlow waits ten seconds for memory that nobody has.
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]  # although it exits while batches are running
    return json.loads(process.stdout)


def test_batches_spread_over_devices_and_come_back_in_any_order(seen):
    features = seen["features"]
    assert features["worst"] < 1e-4  # of 255
    assert (features["device"], features["in_flight"]) == ("gpu:0,gpu:1", 6)
    assert features["threads"] == ["folio-device-0"] * 2 + ["folio-device-1"] * 2
    assert features["frozen"] == [4]  # once, whatever the number of GPUs
    assert features["notes"] == [
        "gpu:0,gpu:1 are different models (L4, T4), whose features agree only up to rounding. "
        "For identical features, choose GPUs of one model with --device"
    ]


def test_a_graph_computes_where_it_is_placed(seen):
    assert seen["placement"]["devices"] == {
        f"/{device}": [device, f"/device:{device}"] for device in ("CPU:1", "CPU:2")
    }


def test_devices_of_one_model_agree_to_the_byte(seen):
    assert seen["placement"]["equal"] == [True, True]


def test_an_error_reaches_the_batch_it_belongs_to(seen):
    ((number, error),) = seen["an_error"]["errors"].items()
    assert number == "5"
    assert (
        "could not compute a batch of 4 at 32 × 32 pixels: assertion failed: [a broken image]. See" in error
    )
    assert seen["an_error"]["after"] < 1e-4


def test_a_batch_that_does_not_fit_is_halved_before_the_work(seen):
    """More than 10 pictures do not fit: 128, 64, 32, 16, 8."""
    large = seen["too_large"]
    assert large["batch_size"] == 8
    assert large["frozen"] == [128, 64, 32, 16, 8]
    assert large["notes"] == ["gpu:0,gpu:1: not enough memory for batches of 128 images; the batch size is 8"]
    assert large["worst"] < 1e-4


def test_an_explicit_batch_size_is_not_reduced(seen):
    assert seen["too_large"]["forced"] == (
        "OutOfMemoryError: gpu:0 has not enough memory for a batch of 16 at 32 × 32 pixels. "
        "Try --batch-size 8"
    )


def test_a_network_that_never_fits(seen):
    assert seen["too_large"]["tried"] == [128, 64, 32, 16, 8, 4, 2, 1]
    assert seen["too_large"]["never"] == (
        "OutOfMemoryError: gpu:0 has not enough memory for a batch of 1 at 32 × 32 pixels. Try --device cpu"
    )


def test_no_thread_outlives_its_engine(seen):
    assert seen["ended"] == 0
