"""Whether XLA compiles: the choice and its memory as logic, with lanes whose speed is made up."""

import json

import numpy as np
import pytest

from featurize.cache import Kept, keep
from featurize.engines import xla
from featurize.engines.lanes import Lanes
from featurize.engines.xla import faster_lanes, memory_of, seconds_each, xla_helps
from featurize.errors import EngineError

IMAGES = np.zeros((2, 1, 1, 3), dtype=np.uint8)
FACTS = {"backbone": "resnet50", "gpus": ["NVIDIA L4"]}


class _Arms:
    """Starts stand-ins for lanes, with XLA or without; counts them, and which were closed."""

    def __init__(self, *, error=None):
        self.error, self.started, self.closed = error, [], []

    def __call__(self, compiled):
        self.started.append(compiled)
        if compiled and self.error is not None:
            raise self.error
        return _Arm(self, compiled)


class _Arm:
    in_flight = 3

    def __init__(self, arms, compiled):
        self.arms, self.compiled = arms, compiled

    def close(self):
        self.arms.closed.append(self.compiled)


@pytest.fixture
def seconds(monkeypatch):
    """Set how long (plain, XLA) take."""
    times = [1.0, 1.0]
    monkeypatch.setattr(xla, "seconds_each", lambda plain, compiled, *, images: tuple(times))
    return times


def _seen(memory):
    """Return what is remembered, in the first line of a file."""
    return json.loads(memory.read_text().splitlines()[0])["about"]


def _choose(arms, memory, asked=None):
    lanes, compiled = faster_lanes(arms, IMAGES, asked=asked, memory=memory, facts=FACTS)
    assert lanes.compiled == compiled
    return compiled


@pytest.mark.parametrize(
    ("plain", "compiled", "starting", "helps"),
    [
        (0.003, 0.002, 9.9, True),  # a millisecond an image is 10 seconds on 10,000
        (0.003, 0.002, 10.1, False),
        (0.0002, 0.0001, 5.0, False),  # 1 second: where decoding is the limit, it never pays
        (1.0, 0.95, 0.0, False),  # by a tenth at least, or the choice would hang on noise
        (1.0, 0.89, 0.0, True),
        (1.0, 3.0, 0.0, False),
    ],
)
def test_when_xla_helps(plain, compiled, starting, helps):
    assert xla_helps(plain, compiled, starting=starting) == helps


@pytest.mark.parametrize(("plain", "compiled", "taken"), [(1.0, 0.5, True), (1.0, 0.95, False)])
def test_the_better_one_is_taken_and_the_other_closed(tmp_path, seconds, plain, compiled, taken):
    seconds[:] = plain, compiled
    arms, memory = _Arms(), tmp_path / "xla" / "memory.json"
    assert _choose(arms, memory) == taken
    assert arms.started == [False, True]
    assert arms.closed == [not taken]
    seen = _seen(memory)
    assert seen["verdict"] == ("xla" if taken else "plain")
    assert seen["plain_seconds_an_image"] == plain / 6  # three batches of two
    assert seen["xla_seconds_an_image"] == compiled / 6
    assert seen["xla_seconds_to_start"] >= 0
    assert seen.items() >= FACTS.items()

    again = _Arms()
    seconds[:] = compiled, plain  # a noisy day
    assert _choose(again, memory) == taken
    assert (again.started, again.closed) == ([taken], [])


def test_what_xla_cannot_compile_is_not_tried_again(tmp_path, seconds):
    arms, memory = _Arms(error=EngineError("gpu:0: libdevice not found")), tmp_path / "memory.json"
    assert not _choose(arms, memory)
    assert (arms.started, arms.closed) == ([False, True], [])
    assert _seen(memory)["reason"] == "gpu:0: libdevice not found"
    again = _Arms()
    assert not _choose(again, memory)
    assert again.started == [False]


def test_a_process_that_died_compiling_is_a_verdict(tmp_path, seconds):
    memory = tmp_path / "memory.json"
    verdicts = []

    class Watching(_Arms):
        def __call__(self, compiled):
            if compiled:
                verdicts.append(_seen(memory)["verdict"])
            return super().__call__(compiled)

    _choose(Watching(), memory)
    assert verdicts == ["trying"]
    keep(memory, Kept(about={"verdict": "trying"}))
    arms = _Arms()
    assert not _choose(arms, memory)
    assert arms.started == [False]


def test_an_attempt_that_was_interrupted_is_none(tmp_path, seconds):
    arms, memory = _Arms(error=KeyboardInterrupt()), tmp_path / "memory.json"
    with pytest.raises(KeyboardInterrupt):
        _choose(arms, memory)
    assert arms.closed == [False]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_memory_is_none(tmp_path, seconds):
    memory = tmp_path / "memory.json"
    keep(memory, Kept(about={"verdict": "plain"}))
    memory.write_bytes(memory.read_bytes().replace(b"plain", b"plaim"))
    seconds[:] = 1.0, 0.5
    assert _choose(_Arms(), memory)
    assert _seen(memory)["verdict"] == "xla"


def test_where_nothing_can_be_remembered_it_is_measured_each_time(tmp_path, seconds):
    (tmp_path / "file").write_text("")
    seconds[:] = 1.0, 0.5
    for _ in range(2):
        arms = _Arms()
        assert _choose(arms, tmp_path / "file" / "memory.json")
        assert arms.started == [False, True]


def test_a_remembered_choice_that_fails_falls_back(tmp_path, seconds):
    """Less memory is free than when it was made, say. It stays the choice."""
    memory = tmp_path / "memory.json"
    keep(memory, Kept(about={"verdict": "xla"}))
    arms = _Arms(error=EngineError("gpu:0 has no memory"))
    assert not _choose(arms, memory)
    assert arms.started == [True, False]
    assert _seen(memory) == {"verdict": "xla"}


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_done_and_not_remembered(tmp_path, seconds, asked):
    arms = _Arms()
    assert _choose(arms, tmp_path / "memory.json", asked) == asked
    assert arms.started == [asked]
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_and_fails_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="libdevice"):
        _choose(_Arms(error=EngineError("libdevice not found")), tmp_path / "memory.json", asked=True)


def test_the_memory_hangs_on_every_fact(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLIO_CACHE", str(tmp_path))
    paths = {
        memory_of(FACTS),
        memory_of({**FACTS, "gpus": ["NVIDIA T4"]}),
        memory_of({**FACTS, "shape": [1]}),
    }
    assert len(paths) == 3
    assert memory_of(dict(reversed(FACTS.items()))) in paths
    assert {path.parent for path in paths} == {tmp_path / "xla"}


def test_arms_take_turns_with_as_many_batches_as_they_hold():
    order = []

    def forward(name):
        return lambda images: order.append(name) or images

    arms = [Lanes([forward("a")], threads=1, waiting=1), Lanes([forward("b")], threads=1, waiting=2)]
    try:
        times = seconds_each(*arms, images=IMAGES)
    finally:
        for lanes in arms:
            lanes.close()
    assert order == ["a", "a", "b", "b", "b"] * 3
    assert len(times) == 2
    assert all(time > 0 for time in times)
