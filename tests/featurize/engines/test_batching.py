"""Pictures one by one into batches: nothing lost, nothing mixed up, no picture overwritten on its way."""

import numpy as np
import pytest

from featurize.engines.batching import Batcher


def pictures(n, size=8):
    """Return pictures whose channel means are n, n + 1 and n + 2: (n, size, size, 3)."""
    return np.arange(n, dtype=np.uint8)[:, None, None, None] + np.broadcast_to(
        np.arange(3, dtype=np.uint8), (size, size, 3)
    )


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 11, 40])
def test_every_picture_comes_back_once_with_its_own_features(mean_engine, in_flight, n):
    engine = mean_engine(size=8, batch_size=4, in_flight=in_flight)
    came = []
    feeder = Batcher(engine, lambda tokens, features: came.extend(zip(tokens, features, strict=True)))
    for number, picture in enumerate(pictures(n)):
        feeder.add(picture, number)
    feeder.finish()
    assert [token for token, _ in came] == list(range(n))
    if n:
        np.testing.assert_array_equal([row for _, row in came], np.arange(n)[:, None] + np.arange(3))
    assert feeder.n_sent == engine.n_seen == n
    assert engine.most_on_their_way == (0 if in_flight == 1 else min(in_flight, -(-n // 4)))


def test_the_callers_array_may_change_at_once(mean_engine):
    engine = mean_engine(size=8, batch_size=4, in_flight=3)
    came = []
    feeder = Batcher(engine, lambda tokens, features: came.extend(features[:, 0]))
    picture = np.zeros((8, 8, 3), np.uint8)
    for number in range(30):
        picture[:] = number
        feeder.add(picture, None)
    feeder.finish()
    assert came == list(range(30))


def test_what_is_done_is_not_kept_waiting_by_an_engine_that_computes_at_once(mean_engine):
    engine = mean_engine(size=8, batch_size=4)
    came = []
    feeder = Batcher(engine, lambda tokens, features: came.extend(tokens))
    for number, picture in enumerate(pictures(9)):
        feeder.add(picture, number)
        assert len(came) == (number + 1) // 4 * 4


def test_the_next_batch_is_handed_over_before_the_last_one_is_looked_at(mean_engine):
    """The engine is never idle while features are put away."""
    engine = mean_engine(size=8, batch_size=2, in_flight=2)
    on_their_way = []
    feeder = Batcher(engine, lambda tokens, features: on_their_way.append(engine.n_on_their_way))
    for picture in pictures(10):
        feeder.add(picture, None)
    assert on_their_way == [2, 2, 2]


def test_memory_does_not_grow_with_the_number_of_pictures(mean_engine):
    engine = mean_engine(size=8, batch_size=4, in_flight=2)
    buffers = set()
    submit = engine.submit

    def watched(images):
        buffers.add(images.__array_interface__["data"][0])
        return submit(images)

    engine.submit = watched
    feeder = Batcher(engine, lambda tokens, features: None)
    for picture in pictures(80):
        feeder.add(picture, None)
    feeder.finish()
    assert len(buffers) <= 3  # two batches in flight, and the one that fills
