"""The dense head on rows that stay on disk: order of images and views, and agreement with a fit in memory."""

import itertools

import numpy as np
import pytest

from classify.heads.dense import DenseHead
from classify.heads.dense_network import StreamedEpochs

SMALL = {"units": (16,), "epochs": 150, "patience": 20}


def first_chunks(rows, *, n_chunks, train=None, seed=0):
    train = np.ones(len(rows), dtype=bool) if train is None else train
    streamed = StreamedEpochs(rows, rows.y, train=train, seed=seed)
    return streamed, list(itertools.islice(streamed._chunks(), n_chunks))


def test_each_pass_has_every_image_once_with_one_of_its_views(blobs, stream_of):
    X, y = blobs(300)
    image = np.arange(300) // 3
    # Memory for chunks of 40 of the 80 images.
    rows = stream_of(X, y, image=image, working_bytes=40 * 6 * 4 * X.shape[1])
    streamed, chunks = first_chunks(rows, n_chunks=4, train=image < 80)
    assert streamed.n_images == 40
    passes = [np.concatenate([chunks[k][0], chunks[k + 1][0]]) for k in (0, 2)]
    assert [sorted(images.tolist()) for images in passes] == [list(range(80))] * 2
    assert passes[0].tolist() != passes[1].tolist()
    views = np.concatenate([row - 3 * images for images, row in chunks])
    assert set(views.tolist()) == {0, 1, 2}


def test_the_rows_of_the_drawn_views_are_read(blobs, stream_of):
    X, y = blobs(300)
    rows = stream_of(X, y, image=np.arange(300) // 3)
    streamed, chunks = first_chunks(rows, n_chunks=1)
    data = streamed._read(chunks[0], [])
    assert np.array_equal(data["X"], X[chunks[0][1]])
    assert np.array_equal(data["y"], y[3 * chunks[0][0]])


def test_it_learns_as_well_as_in_memory(blobs, stream_of):
    X, y = blobs(900, apart=1.0)
    new, label = blobs(300, apart=1.0, seed=1)
    inside = DenseHead(**SMALL).fit(X, y)
    small = {"working_bytes": 300 * 6 * 4 * X.shape[1]}
    outside = DenseHead(**SMALL).fit_stream(stream_of(X, y, **small))
    right = [np.mean(head.predict(new) == label) for head in (inside, outside)]
    assert right[0] > 0.85
    assert right[1] == pytest.approx(right[0], abs=0.04)
    (note,) = outside.notes_
    expected = (
        "each epoch trains on up to 300 of 720 images, and 180 other images are used for early stopping"
    )
    assert note.endswith(expected)
    again = DenseHead(**SMALL).fit_stream(stream_of(X, y, chunk_rows=11, **small))
    assert np.array_equal(again.predict_proba(new), outside.predict_proba(new))
    assert again.history_ == outside.history_


def test_given_validation_rows_are_used_for_early_stopping(blobs, stream_of):
    X, y = blobs(120)
    head = DenseHead(**SMALL).fit_stream(stream_of(X, y), X_val=X[:30], y_val=y[:30])
    assert head.n_validation_ == 30
