"""Threads that keep devices at work: order, balance, errors, and that nothing outlives its owner.

The devices are Python functions that wait where a test tells them to; no test hangs on how fast a machine is.
"""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from featurize.engines.batching import DeviceQueues
from featurize.errors import EngineError

PATIENCE = 60.0  # seconds after which what should happen counts as not happening


def _batch(number, n=2):
    return np.full((n, 1, 1, 3), number, dtype=np.uint8)


def _mean(images):
    return images.astype(np.float32).mean(axis=(1, 2))


class _Device:
    """A device that computes a batch only when it is let, and remembers which it was given."""

    def __init__(self, *, at_once=True):
        self.seen, self.begun, self.allowed = [], threading.Semaphore(0), threading.Semaphore(0)
        if at_once:
            self.let(10**6)

    def let(self, n=1):
        self.allowed.release(n)

    def wait_until_begun(self, n=1):
        for _ in range(n):
            assert self.begun.acquire(timeout=PATIENCE)

    def __call__(self, images):
        self.seen.append(int(images.flat[0]))
        self.begun.release()
        assert self.allowed.acquire(timeout=PATIENCE)
        return _mean(images)


@pytest.fixture
def lanes_of():
    made = []

    def make(*forwards, threads=1, waiting=1):
        made.append(DeviceQueues(forwards, threads=threads, waiting=waiting))
        return made[-1]

    yield make
    for lanes in made:
        lanes.close()


@pytest.mark.parametrize(("n_devices", "threads", "waiting", "in_flight"), [(1, 1, 1, 2), (3, 2, 1, 9)])
def test_what_is_worth_having_in_flight(lanes_of, n_devices, threads, waiting, in_flight):
    assert lanes_of(*[_mean] * n_devices, threads=threads, waiting=waiting).in_flight == in_flight


@pytest.mark.parametrize("order", [1, -1])
def test_results_in_any_order(lanes_of, order):
    lanes = lanes_of(_mean, _mean, threads=2)
    pending = [(number, lanes.submit(_batch(number))) for number in range(40)]
    for number, one in pending[::order]:
        np.testing.assert_array_equal(one.result(), np.full((2, 3), number, np.float32))
        np.testing.assert_array_equal(one.result(), np.full((2, 3), number, np.float32))  # and once more


def test_submitting_does_not_wait_for_the_work(lanes_of):
    device = _Device(at_once=False)
    lanes = lanes_of(device)
    first, second = lanes.submit(_batch(1)), lanes.submit(_batch(2))
    device.wait_until_begun()
    device.let(2)
    assert (first.result()[0, 0], second.result()[0, 0]) == (1, 2)


def test_submitting_waits_where_enough_is_under_way(lanes_of):
    device = _Device(at_once=False)
    lanes = lanes_of(device)
    for number in range(lanes.in_flight):
        lanes.submit(_batch(number))
    third = threading.Thread(target=lanes.submit, args=(_batch(7),), daemon=True)
    third.start()
    device.wait_until_begun()
    third.join(0.1)
    assert third.is_alive()
    device.let()
    third.join(PATIENCE)
    assert not third.is_alive()
    device.let(2)


def test_devices_that_are_equally_busy_take_turns(lanes_of):
    devices = [_Device(at_once=False) for _ in range(3)]
    lanes = lanes_of(*devices, threads=1, waiting=2)
    for number in range(9):
        lanes.submit(_batch(number))
    for device in devices:
        device.let(3)
        device.wait_until_begun(3)
    assert [device.seen for device in devices] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_the_device_with_the_least_to_do_is_given_more(lanes_of):
    slow, fast = _Device(at_once=False), _Device()
    lanes = lanes_of(slow, fast, threads=1, waiting=3)
    held = lanes.submit(_batch(100))
    slow.wait_until_begun()
    for number in range(20):
        lanes.submit(_batch(number)).result()
    assert slow.seen == [100]
    assert fast.seen == list(range(20))
    slow.let()
    held.result()


def test_each_device_has_as_many_batches_at_once_as_threads(lanes_of):
    devices = [_Device(at_once=False) for _ in range(2)]
    lanes = lanes_of(*devices, threads=2, waiting=1)
    for number in range(6):
        lanes.submit(_batch(number))
    for device in devices:
        device.wait_until_begun(2)
        assert not device.begun.acquire(timeout=0.05)
        device.let(3)


def test_an_error_reaches_the_one_who_waits_for_that_batch(lanes_of):
    def fragile(images):
        if images.flat[0] == 3:
            raise EngineError("gpu:1 has no memory for that")
        return _mean(images)

    lanes = lanes_of(fragile, fragile, threads=1, waiting=5)
    pending = [lanes.submit(_batch(number)) for number in range(8)]
    for number, one in enumerate(pending):
        if number == 3:
            with pytest.raises(EngineError, match="gpu:1 has no memory for that"):
                one.result()
        else:
            assert one.result()[0, 0] == number
    assert lanes.submit(_batch(9)).result()[0, 0] == 9  # the thread lives on


def test_whatever_is_raised_is_raised_where_the_result_is_taken(lanes_of):
    def leaving(images):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        lanes_of(leaving).submit(_batch(0)).result()


def test_finished_batches_are_held_by_nobody(lanes_of):
    lanes = lanes_of(_mean)
    images = _batch(0)
    gone = weakref.ref(images)
    pending = lanes.submit(images)
    pending.result()
    del images
    deadline = time.monotonic() + PATIENCE
    while (
        gone() is not None and time.monotonic() < deadline
    ):  # the thread may still be on its way to its queue
        time.sleep(0.001)
    assert gone() is None


# --- the end --------------------------------------------------------------------------------------


def _alive(threads):
    for thread in threads:
        thread.join(PATIENCE)
    return [thread for thread in threads if thread.is_alive()]


def _closing(lanes):
    closing = threading.Thread(target=lanes.close, daemon=True)
    closing.start()
    return closing


def test_closing_drops_what_waits_and_finishes_what_is_begun():
    device = _Device(at_once=False)
    lanes = DeviceQueues([device], threads=1, waiting=2)
    begun, *waiting = [lanes.submit(_batch(number)) for number in range(3)]
    device.wait_until_begun()
    closing = _closing(lanes)
    for one in waiting:
        with pytest.raises(EngineError, match="the engine was closed before it came to these pictures"):
            one.result()
    device.let()
    assert begun.result()[0, 0] == 0
    assert _alive([closing, *lanes._threads]) == []
    with pytest.raises(EngineError, match="closed"):
        lanes.submit(_batch(4)).result()
    assert device.seen == [0]
    lanes.close()


def test_closing_wakes_who_waits_for_room():
    device = _Device(at_once=False)
    lanes = DeviceQueues([device], threads=1, waiting=1)
    for number in range(2):
        lanes.submit(_batch(number))
    device.wait_until_begun()
    late = []
    third = threading.Thread(target=lambda: late.append(lanes.submit(_batch(7))), daemon=True)
    third.start()
    closing = _closing(lanes)
    assert _alive([third]) == []
    with pytest.raises(EngineError, match="closed"):
        late[0].result()
    device.let()
    assert _alive([closing]) == []


def test_threads_end_with_their_lanes():
    lanes = DeviceQueues([_mean, _mean], threads=2, waiting=1)
    threads = lanes._threads
    assert all(thread.is_alive() and thread.daemon for thread in threads)
    del lanes
    gc.collect()
    assert _alive(threads) == []


def test_a_result_on_its_way_keeps_the_lanes():
    device = _Device(at_once=False)
    pending = DeviceQueues([device], threads=1, waiting=2).submit(_batch(5))
    gc.collect()
    device.let()
    assert pending.result()[0, 0] == 5


_PROCESS = """
import sys, threading, time
import numpy as np
from featurize.engines.base import lanes
from featurize.engines.batching import Lanes
begun = threading.Event()
def forward(images):
    begun.set()
    time.sleep({seconds})
    print("computed", flush=True)
    return images.astype(np.float32).mean(axis=(1, 2))
lanes.LAST_BATCH = {patience}
both = Lanes([forward, forward], threads=2, waiting=2)
pending = [both.submit(np.zeros((1, 1, 1, 3), np.uint8)) for _ in range(both.in_flight)]
begun.wait()
{then}
"""


def _process(then, *, seconds=0.2, patience=30.0):
    code = _PROCESS.format(then=then, seconds=seconds, patience=patience)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("then", ["print('end')", "del both, pending", "raise SystemExit(0)"])
def test_a_process_that_ends_computes_what_is_begun_and_no_more(then):
    process = _process(then)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert 1 <= out.count("computed") <= 4  # of 8


def test_a_device_that_hangs_does_not_hold_the_process():
    process = _process("print('end')", seconds=3600, patience=0.2)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "end\n")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_wait_for_a_result():
    process = _process("print('waits', flush=True)\npending[-1].result()", seconds=3600, patience=0.2)
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in err
    assert process.returncode in (-signal.SIGINT, 130)
