"""PredictionQueue: batches, failures of single requests, the limit of requests."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from classify.deploy.predict import InputFile
from classify.deploy.serve.predictor import MAX_BATCH_FILES, PredictionQueue, ServerBusyError
from featurize import FolioError


def inputs(*names):
    return [InputFile(file=Path(name), path=name, entry=name) for name in names]


class FakePredictor:
    """Predicts the joined names of each entry's files; waits for a gate; raises for a file named "bad"."""

    def __init__(self, *, open_gate=True):
        self.batches = []
        self.gate, self.started = threading.Event(), threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, files, entry_keys):
        self.batches.append([one.path for one in files])
        self.started.set()
        assert self.gate.wait(30)
        if any(one.path == "bad" for one in files):
            raise FolioError("it fails")
        return tuple(
            "+".join(one.path for one, other in zip(files, entry_keys, strict=True) if other == key)
            for key in dict.fromkeys(entry_keys)
        )


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("timeout")


def test_queued_requests_are_predicted_together_and_each_gets_its_own_results():
    fake = FakePredictor(open_gate=False)
    with PredictionQueue(fake) as queue, ThreadPoolExecutor(20) as clients:
        first = clients.submit(queue.predict, inputs("first"), ["0"])
        assert fake.started.wait(30)
        asked = [clients.submit(queue.predict, inputs(f"{k}a", f"{k}b"), ["0", "1"]) for k in range(9)]
        joined = clients.submit(queue.predict, inputs("x", "y"), ["", ""])
        wait_for(lambda: len(queue._jobs) == 10)
        fake.gate.set()
        assert first.result(30) == ("first",)
        assert [one.result(30) for one in asked] == [(f"{k}a", f"{k}b") for k in range(9)]
        assert joined.result(30) == ("x+y",)
    sizes = [len(batch) for batch in fake.batches]
    assert sizes == [1, MAX_BATCH_FILES, 4]


def test_a_request_larger_than_a_batch_is_a_batch_by_itself():
    names = [str(k) for k in range(3 * MAX_BATCH_FILES)]
    fake = FakePredictor()
    with PredictionQueue(fake) as queue:
        assert queue.predict(inputs(*names), names) == tuple(names)
    assert fake.batches == [names]


def test_a_failing_request_does_not_fail_the_others():
    fake = FakePredictor(open_gate=False)
    with PredictionQueue(fake) as queue, ThreadPoolExecutor(9) as clients:
        first = clients.submit(queue.predict, inputs("first"), ["0"])
        assert fake.started.wait(30)
        good = [clients.submit(queue.predict, inputs(str(k)), ["0"]) for k in range(3)]
        bad = clients.submit(queue.predict, inputs("bad"), ["0"])
        wait_for(lambda: len(queue._jobs) == 4)
        fake.gate.set()
        assert [one.result(30) for one in (first, *good)] == [("first",), ("0",), ("1",), ("2",)]
        with pytest.raises(FolioError, match="it fails"):
            bad.result(30)
        assert queue.predict(inputs("after"), ["0"]) == ("after",)


def test_the_number_of_slots_is_limited():
    with PredictionQueue(FakePredictor(), max_requests=2) as queue:
        with (
            queue.slot(),
            queue.slot(),
            pytest.raises(ServerBusyError, match="2 requests are in progress already: try again"),
            queue.slot(),
        ):
            pass
        with queue.slot(), pytest.raises(ZeroDivisionError), queue.slot():
            raise ZeroDivisionError  # the slot is released all the same
        with queue.slot(), queue.slot():
            assert queue.predict(inputs("a"), ["0"]) == ("a",)


def test_close_refuses_queued_requests():
    fake = FakePredictor(open_gate=False)
    queue = PredictionQueue(fake)
    with ThreadPoolExecutor(4) as clients:
        under_way = clients.submit(queue.predict, inputs("under way"), ["0"])
        assert fake.started.wait(30)
        waits = clients.submit(queue.predict, inputs("waits"), ["0"])
        wait_for(lambda: len(queue._jobs) == 1)
        closing = clients.submit(queue.close)
        with pytest.raises(ServerBusyError, match="the server is shutting down"):
            waits.result(30)
        fake.gate.set()
        closing.result(30)
        assert under_way.result(30) == ("under way",)
    with pytest.raises(ServerBusyError, match="the server is shutting down"):
        queue.predict(inputs("late"), ["0"])
    with pytest.raises(ServerBusyError, match="the server is shutting down"), queue.slot():
        pass
