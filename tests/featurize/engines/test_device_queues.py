"""Device queues: order, load balance, errors, and threads that end with their owner.

The devices are Python functions that block until a test releases them; no test depends on the speed of the
machine.
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

TIMEOUT = 60.0  # seconds until an expected event counts as missing


def _batch(number, n=2):
    return np.full((n, 1, 1, 3), number, dtype=np.uint8)


def _mean(images):
    return images.astype(np.float32).mean(axis=(1, 2))


class _Device:
    """A device that computes a batch only when a test allows it, and records the batches it received."""

    def __init__(self, *, at_once=True):
        self.seen, self.begun, self.allowed = [], threading.Semaphore(0), threading.Semaphore(0)
        if at_once:
            self.let(10**6)

    def let(self, n=1):
        self.allowed.release(n)

    def wait_until_begun(self, n=1):
        for _ in range(n):
            assert self.begun.acquire(timeout=TIMEOUT)

    def __call__(self, images):
        self.seen.append(int(images.flat[0]))
        self.begun.release()
        assert self.allowed.acquire(timeout=TIMEOUT)
        return _mean(images)


@pytest.fixture
def make_queues():
    made = []

    def make(*forwards, threads=1, queued=1):
        made.append(DeviceQueues(forwards, threads=threads, queued=queued))
        return made[-1]

    yield make
    for queues in made:
        queues.close()


@pytest.mark.parametrize(("n_devices", "threads", "queued", "in_flight"), [(1, 1, 1, 2), (3, 2, 1, 9)])
def test_in_flight_counts_threads_and_queued_batches(make_queues, n_devices, threads, queued, in_flight):
    assert make_queues(*[_mean] * n_devices, threads=threads, queued=queued).in_flight == in_flight


@pytest.mark.parametrize("order", [1, -1])
def test_results_in_any_order(make_queues, order):
    queues = make_queues(_mean, _mean, threads=2)
    pending = [(number, queues.submit(_batch(number))) for number in range(40)]
    for number, one in pending[::order]:
        np.testing.assert_array_equal(one.result(), np.full((2, 3), number, np.float32))
        np.testing.assert_array_equal(one.result(), np.full((2, 3), number, np.float32))  # a second time


def test_submitting_does_not_wait_for_the_work(make_queues):
    device = _Device(at_once=False)
    queues = make_queues(device)
    first, second = queues.submit(_batch(1)), queues.submit(_batch(2))
    device.wait_until_begun()
    device.let(2)
    assert (first.result()[0, 0], second.result()[0, 0]) == (1, 2)


def test_submitting_blocks_while_in_flight_batches_are_unfinished(make_queues):
    device = _Device(at_once=False)
    queues = make_queues(device)
    for number in range(queues.in_flight):
        queues.submit(_batch(number))
    third = threading.Thread(target=queues.submit, args=(_batch(7),), daemon=True)
    third.start()
    device.wait_until_begun()
    third.join(0.1)
    assert third.is_alive()
    device.let()
    third.join(TIMEOUT)
    assert not third.is_alive()
    device.let(2)


def test_devices_that_are_equally_busy_take_turns(make_queues):
    devices = [_Device(at_once=False) for _ in range(3)]
    queues = make_queues(*devices, threads=1, queued=2)
    for number in range(9):
        queues.submit(_batch(number))
    for device in devices:
        device.let(3)
        device.wait_until_begun(3)
    assert [device.seen for device in devices] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_the_device_with_the_fewest_unfinished_batches_gets_the_next(make_queues):
    slow, fast = _Device(at_once=False), _Device()
    queues = make_queues(slow, fast, threads=1, queued=3)
    held = queues.submit(_batch(100))
    slow.wait_until_begun()
    for number in range(20):
        queues.submit(_batch(number)).result()
    assert slow.seen == [100]
    assert fast.seen == list(range(20))
    slow.let()
    held.result()


def test_each_device_has_as_many_batches_at_once_as_threads(make_queues):
    devices = [_Device(at_once=False) for _ in range(2)]
    queues = make_queues(*devices, threads=2, queued=1)
    for number in range(6):
        queues.submit(_batch(number))
    for device in devices:
        device.wait_until_begun(2)
        assert not device.begun.acquire(timeout=0.05)
        device.let(3)


def test_an_error_is_raised_for_its_own_batch_only(make_queues):
    def fragile(images):
        if images.flat[0] == 3:
            raise EngineError("gpu:1 has no memory for that")
        return _mean(images)

    queues = make_queues(fragile, fragile, threads=1, queued=5)
    pending = [queues.submit(_batch(number)) for number in range(8)]
    for number, one in enumerate(pending):
        if number == 3:
            with pytest.raises(EngineError, match="gpu:1 has no memory for that"):
                one.result()
        else:
            assert one.result()[0, 0] == number
    assert queues.submit(_batch(9)).result()[0, 0] == 9  # the thread still runs


def test_any_exception_is_raised_where_the_result_is_taken(make_queues):
    def leaving(images):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        make_queues(leaving).submit(_batch(0)).result()


def test_finished_batches_are_released(make_queues):
    queues = make_queues(_mean)
    images = _batch(0)
    gone = weakref.ref(images)
    pending = queues.submit(images)
    pending.result()
    del images
    deadline = time.monotonic() + TIMEOUT
    while (
        gone() is not None and time.monotonic() < deadline
    ):  # the thread may still be on its way to its queue
        time.sleep(0.001)
    assert gone() is None


# --- the end --------------------------------------------------------------------------------------


def _alive(threads):
    for thread in threads:
        thread.join(TIMEOUT)
    return [thread for thread in threads if thread.is_alive()]


def _closing(queues):
    closing = threading.Thread(target=queues.close, daemon=True)
    closing.start()
    return closing


def test_closing_cancels_queued_batches_and_finishes_running_ones():
    device = _Device(at_once=False)
    queues = DeviceQueues([device], threads=1, queued=2)
    begun, *waiting = [queues.submit(_batch(number)) for number in range(3)]
    device.wait_until_begun()
    closing = _closing(queues)
    for one in waiting:
        with pytest.raises(EngineError, match="the engine was closed before it computed these images"):
            one.result()
    device.let()
    assert begun.result()[0, 0] == 0
    assert _alive([closing, *queues._threads]) == []
    with pytest.raises(EngineError, match="closed"):
        queues.submit(_batch(4)).result()
    assert device.seen == [0]
    queues.close()


def test_closing_unblocks_a_pending_submit():
    device = _Device(at_once=False)
    queues = DeviceQueues([device], threads=1, queued=1)
    for number in range(2):
        queues.submit(_batch(number))
    device.wait_until_begun()
    late = []
    third = threading.Thread(target=lambda: late.append(queues.submit(_batch(7))), daemon=True)
    third.start()
    closing = _closing(queues)
    assert _alive([third]) == []
    with pytest.raises(EngineError, match="closed"):
        late[0].result()
    device.let()
    assert _alive([closing]) == []


def test_threads_end_with_their_queues():
    queues = DeviceQueues([_mean, _mean], threads=2, queued=1)
    threads = queues._threads
    assert all(thread.is_alive() and thread.daemon for thread in threads)
    del queues
    gc.collect()
    assert _alive(threads) == []


def test_a_result_on_its_way_keeps_the_queues():
    device = _Device(at_once=False)
    pending = DeviceQueues([device], threads=1, queued=2).submit(_batch(5))
    gc.collect()
    device.let()
    assert pending.result()[0, 0] == 5


_PROCESS = """
import sys, threading, time
import numpy as np
from featurize.engines import batching
from featurize.engines.batching import DeviceQueues
begun = threading.Event()
def forward(images):
    begun.set()
    time.sleep({seconds})
    print("computed", flush=True)
    return images.astype(np.float32).mean(axis=(1, 2))
batching.EXIT_TIMEOUT = {timeout}
both = DeviceQueues([forward, forward], threads=2, queued=2)
pending = [both.submit(np.zeros((1, 1, 1, 3), np.uint8)) for _ in range(both.in_flight)]
begun.wait()
{then}
"""


def _process(then, *, seconds=0.2, timeout=30.0):
    code = _PROCESS.format(then=then, seconds=seconds, timeout=timeout)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_accept_ctrl_c if os.name != "nt" else None,
    )


def _accept_ctrl_c():
    """Undo, in a child, what a background job of a shell inherits: that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("then", ["print('end')", "del both, pending", "raise SystemExit(0)"])
def test_an_exiting_process_finishes_running_batches_only(then):
    process = _process(then)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    assert 1 <= out.count("computed") <= 4  # of 8


def test_a_device_that_hangs_does_not_hold_the_process():
    process = _process("print('end')", seconds=3600, timeout=0.2)
    out, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (0, "end\n")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_wait_for_a_result():
    process = _process("print('waits', flush=True)\npending[-1].result()", seconds=3600, timeout=0.2)
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert "KeyboardInterrupt" in err
    assert process.returncode in (-signal.SIGINT, 130)
