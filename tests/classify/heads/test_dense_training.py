"""Epochs of the dense head: steps agree with Keras, views are drawn uniformly."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from classify.heads import dense_network as net, dense_training as training
from classify.heads.dense import DenseHead
from classify.heads.grouping import rows_by_image

keras = pytest.importorskip("keras")

NO_LEARNING = (np.float32(0), np.float32(0), np.int64(32))  # best loss, learning rate, batch size


@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_epoch_of_several_steps_agrees_with_keras(blobs, n_classes):
    """Keras' train_on_batch on the same batches, one after another, gives the same weights."""
    X, y = blobs(70, n_classes=n_classes, apart=0.5)
    rows = training.as_tensors(
        X=X,
        start=np.arange(70),
        count=np.ones(70),
        y=y,
        X_val=X,
        y_val=y,
        class_weight=np.ones(n_classes),
    )
    ours, theirs = (net.build_network(12, n_classes, units=(16, 8), dropout=0.0, seed=4) for _ in range(2))
    loss = "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy"
    theirs.compile(optimizer=keras.optimizers.Adam(3e-3), loss=loss)
    state = training.initial_state(ours)
    epoch = training.epoch_function(12, n_classes, (16, 8), 0.0)
    for number in range(1, 4):
        seed = np.array([2, number], np.int32)
        figures = epoch(state, rows, seed, np.float32(0), np.float32(3e-3), np.int64(32)).numpy()
        row = training._sample_views(rows, seed)[0].numpy()
        assert sorted(row) == list(range(70))
        losses = [theirs.train_on_batch(X[part], y[part]) for part in (row[:23], row[23:46], row[46:])]
        np.testing.assert_allclose(figures[0], np.average(losses, weights=[23, 23, 24]), rtol=1e-4)
    assert float(state.steps) == 9
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        if "seed" not in mine.path:
            np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=3e-4, err_msg=mine.path)


def test_each_epoch_draws_one_view_per_image_uniformly():
    """The mean of the batch is read from the moving mean of batch norm; its digits encode the drawn rows."""
    image = np.array([2, 0, 1, 1, 2, 0, 1])  # image 0 has two rows, image 1 three, image 2 two
    drawn_as = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [0, 2, 0]])
    value = drawn_as @ np.array([1, 10, 100])
    images = rows_by_image(image)
    rows = training.as_tensors(
        X=value[images.rows, None],
        start=images.start,
        count=images.count,
        y=[0, 1, 0],
        X_val=[[0.0]],
        y_val=[0],
        class_weight=[1, 1],
    )
    epoch = training.epoch_function(1, 2, (2,), 0.0)
    state = training.initial_state(net.build_network(1, 2, units=(2,), dropout=0.0, seed=0))
    seen = []
    for number in range(300):
        state.moving[0].assign([0.0])
        epoch(state, rows, np.array([0, number], np.int32), *NO_LEARNING)
        mean = float(state.moving[0][0]) / 0.01  # moving mean: 0.99 * 0 + 0.01 * batch mean
        seen.append([int(digit) for digit in f"{round(mean * 3):03d}"])
    third, second, first = np.array(seen).T  # digits of images 2, 1 and 0
    assert set(first) == {1, 2}
    assert set(second) == {0, 1, 2}
    assert set(third) == {0, 1}
    np.testing.assert_allclose(np.bincount(second, minlength=3) / 300, 1 / 3, atol=0.1)
    np.testing.assert_allclose(np.bincount(third) / 300, 1 / 2, atol=0.1)
    assert abs(np.corrcoef(first, third)[0, 1]) < 0.2


@pytest.mark.parametrize(("n_images", "steps"), [(32, 1), (33, 2), (64, 2), (65, 3)])
def test_no_step_has_a_single_remaining_image(n_images, steps):
    """A batch of one image has no variance: it would pull the moving variance of batch norm towards zero."""
    X = np.resize([1.0, -1.0], (n_images, 1)) * 10
    rows = training.as_tensors(
        X=X,
        start=np.arange(n_images),
        count=np.ones(n_images),
        y=np.arange(n_images) % 2,
        X_val=X[:2],
        y_val=[0, 1],
        class_weight=[1, 1],
    )
    state = training.initial_state(net.build_network(1, 2, units=(2,), dropout=0.0, seed=0))
    epoch = training.epoch_function(1, 2, (2,), 0.0)
    for number in range(20):
        figures = epoch(state, rows, np.array([1, number], np.int32), *NO_LEARNING)
        assert np.isfinite(figures.numpy()).all()
    assert float(state.steps) == 20 * steps
    moving = 0.99 ** (
        20 * steps
    )  # remaining weight of the initial value, 1; the variance of each step is about 100
    assert float(state.moving[1][0]) == pytest.approx(moving + (1 - moving) * 100, rel=0.05)


def test_a_fit_in_another_thread_can_be_stopped(blobs):
    X, y = blobs()
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(
            DenseHead(units=(8,), epochs=10**9, patience=10**9, learning_rate=1e-9).fit, X, y
        )
        time.sleep(0.5)
        assert not endless.done()
        training.stop_requested.set()
        try:
            assert "was stopped" in str(endless.exception(timeout=60))
        finally:
            training.stop_requested.clear()
