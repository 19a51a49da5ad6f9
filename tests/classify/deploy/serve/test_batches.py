"""Requests in batches: each gets its own answers, one failure stays one, and there is a bound."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from classify.deploy.predict import InputFile
from classify.deploy.serve.grader import MOST_FILES, GradingQueue, ServerBusyError
from featurize import FolioError


def listed(*names):
    return [InputFile(file=Path(name), path=name, entry=name) for name in names]


class Grading:
    """Answers with the names of what is graded as one; waits at a gate, and fails where a name says so."""

    def __init__(self, *, open_gate=True):
        self.batches = []
        self.gate, self.under_way = threading.Event(), threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, files, together):
        self.batches.append([one.path for one in files])
        self.under_way.set()
        assert self.gate.wait(30)
        if any(one.path == "bad" for one in files):
            raise FolioError("it fails")
        words = dict.fromkeys(together)
        return tuple(
            "+".join(one.path for one, other in zip(files, together, strict=True) if other == word)
            for word in words
        )


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


def test_what_waits_is_graded_together_and_each_gets_its_own():
    grading = Grading(open_gate=False)
    with GradingQueue(grading) as queue, ThreadPoolExecutor(20) as clients:
        first = clients.submit(queue.ask, listed("first"), together=["0"])
        assert grading.under_way.wait(30)
        asked = [clients.submit(queue.ask, listed(f"{k}a", f"{k}b"), together=["0", "1"]) for k in range(9)]
        joined = clients.submit(queue.ask, listed("x", "y"), together=["", ""])
        wait_for(lambda: len(queue._jobs) == 10)
        grading.gate.set()
        assert first.result(30) == ("first",)
        assert [one.result(30) for one in asked] == [(f"{k}a", f"{k}b") for k in range(9)]
        assert joined.result(30) == ("x+y",)
    sizes = [len(batch) for batch in grading.batches]
    assert sizes == [1, MOST_FILES, 4]


def test_a_request_of_more_than_a_batch_is_one_by_itself():
    names = [str(k) for k in range(3 * MOST_FILES)]
    grading = Grading()
    with GradingQueue(grading) as queue:
        assert queue.ask(listed(*names), together=names) == tuple(names)
    assert grading.batches == [names]


def test_what_one_request_brings_about_is_no_concern_of_the_others():
    grading = Grading(open_gate=False)
    with GradingQueue(grading) as queue, ThreadPoolExecutor(9) as clients:
        first = clients.submit(queue.ask, listed("first"), together=["0"])
        assert grading.under_way.wait(30)
        good = [clients.submit(queue.ask, listed(str(k)), together=["0"]) for k in range(3)]
        bad = clients.submit(queue.ask, listed("bad"), together=["0"])
        wait_for(lambda: len(queue._jobs) == 4)
        grading.gate.set()
        assert [one.result(30) for one in (first, *good)] == [("first",), ("0",), ("1",), ("2",)]
        with pytest.raises(FolioError, match="it fails"):
            bad.result(30)
        assert queue.ask(listed("after"), together=["0"]) == ("after",)


def test_there_are_so_many_places_and_no_more():
    with GradingQueue(Grading(), most_requests=2) as queue:
        with (
            queue.place(),
            queue.place(),
            pytest.raises(ServerBusyError, match="2 requests are being graded already: try again"),
            queue.place(),
        ):
            pass
        with queue.place(), pytest.raises(ZeroDivisionError), queue.place():
            raise ZeroDivisionError  # the place is given back, whatever happened
        with queue.place(), queue.place():
            assert queue.ask(listed("a"), together=["0"]) == ("a",)


def test_at_the_end_those_who_wait_hear_of_it():
    grading = Grading(open_gate=False)
    queue = GradingQueue(grading)
    with ThreadPoolExecutor(4) as clients:
        under_way = clients.submit(queue.ask, listed("under way"), together=["0"])
        assert grading.under_way.wait(30)
        waits = clients.submit(queue.ask, listed("waits"), together=["0"])
        wait_for(lambda: len(queue._jobs) == 1)
        closing = clients.submit(queue.close)
        with pytest.raises(ServerBusyError, match="the server is ending"):
            waits.result(30)
        grading.gate.set()
        closing.result(30)
        assert under_way.result(30) == ("under way",)
    with pytest.raises(ServerBusyError, match="the server is ending"):
        queue.ask(listed("late"), together=["0"])
    with pytest.raises(ServerBusyError, match="the server is ending"), queue.place():
        pass
