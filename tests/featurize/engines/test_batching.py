"""Batching of single images: none is lost, mixed up, or overwritten before it is computed."""

import numpy as np
import pytest

from featurize.engines.batching import Batcher


def images(n, size=8):
    """Return images whose channel means are n, n + 1 and n + 2: (n, size, size, 3)."""
    return np.arange(n, dtype=np.uint8)[:, None, None, None] + np.broadcast_to(
        np.arange(3, dtype=np.uint8), (size, size, 3)
    )


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 11, 40])
def test_every_image_gets_its_own_features_once(mean_engine, in_flight, n):
    engine = mean_engine(size=8, batch_size=4, in_flight=in_flight)
    delivered = []
    batcher = Batcher(engine, lambda tokens, features: delivered.extend(zip(tokens, features, strict=True)))
    for number, image in enumerate(images(n)):
        batcher.add(image, number)
    batcher.finish()
    assert [token for token, _ in delivered] == list(range(n))
    if n:
        np.testing.assert_array_equal([row for _, row in delivered], np.arange(n)[:, None] + np.arange(3))
    assert batcher.n_sent == engine.n_seen == n
    assert engine.most_on_their_way == (0 if in_flight == 1 else min(in_flight, -(-n // 4)))


def test_the_caller_may_reuse_its_array(mean_engine):
    engine = mean_engine(size=8, batch_size=4, in_flight=3)
    delivered = []
    batcher = Batcher(engine, lambda tokens, features: delivered.extend(features[:, 0]))
    image = np.zeros((8, 8, 3), np.uint8)
    for number in range(30):
        image[:] = number
        batcher.add(image, None)
    batcher.finish()
    assert delivered == list(range(30))


def test_an_engine_without_a_queue_delivers_every_batch_at_once(mean_engine):
    engine = mean_engine(size=8, batch_size=4)
    delivered = []
    batcher = Batcher(engine, lambda tokens, features: delivered.extend(tokens))
    for number, image in enumerate(images(9)):
        batcher.add(image, number)
        assert len(delivered) == (number + 1) // 4 * 4


def test_the_next_batch_is_submitted_before_features_are_delivered(mean_engine):
    """The engine is never idle while features are delivered."""
    engine = mean_engine(size=8, batch_size=2, in_flight=2)
    on_their_way = []
    batcher = Batcher(engine, lambda tokens, features: on_their_way.append(engine.n_on_their_way))
    for image in images(10):
        batcher.add(image, None)
    assert on_their_way == [2, 2, 2]


def test_memory_does_not_grow_with_the_number_of_images(mean_engine):
    engine = mean_engine(size=8, batch_size=4, in_flight=2)
    buffers = set()
    submit = engine.submit

    def watched(images):
        buffers.add(images.__array_interface__["data"][0])
        return submit(images)

    engine.submit = watched
    batcher = Batcher(engine, lambda tokens, features: None)
    for image in images(80):
        batcher.add(image, None)
    batcher.finish()
    assert len(buffers) <= 3  # two batches in flight, and the one that fills
