"""The dense head on rows that stay on disk: what it is shown, and that it learns as it does in memory."""

import itertools

import numpy as np
import pytest

from classify.heads.dense import DenseHead
from classify.heads.dense_network import StreamedEpochs

SMALL = {"units": (16,), "epochs": 150, "patience": 20}


def shown(rows, *, n_stretches, kept=None, seed=0):
    kept = np.ones(len(rows), dtype=bool) if kept is None else kept
    stretches = StreamedEpochs(rows, rows.y, kept=kept, seed=seed)
    return stretches, list(itertools.islice(stretches._plan(), n_stretches))


def test_each_pass_shows_every_image_once_by_one_of_its_views(blobs, stream_of):
    X, y = blobs(300)
    image = np.arange(300) // 3
    # Memory for stretches of 40 of the 80 images.
    rows = stream_of(X, y, image=image, working_bytes=40 * 6 * 4 * X.shape[1])
    kept = image < 80
    stretches, plan = shown(rows, n_stretches=4, kept=kept)
    assert stretches.n_images == 40
    passes = [np.concatenate([plan[k][0], plan[k + 1][0]]) for k in (0, 2)]
    assert [sorted(one.tolist()) for one in passes] == [list(range(80))] * 2
    assert passes[0].tolist() != passes[1].tolist()
    views = np.concatenate([row - 3 * images for images, row in plan])
    assert set(views.tolist()) == {0, 1, 2}


def test_rows_are_those_of_the_views_drawn(blobs, stream_of):
    X, y = blobs(300)
    rows = stream_of(X, y, image=np.arange(300) // 3)
    stretches, plan = shown(rows, n_stretches=1)
    read = stretches._read(plan[0], [])
    assert np.array_equal(read["X"], X[plan[0][1]])
    assert np.array_equal(read["y"], y[3 * plan[0][0]])


def test_it_learns_what_it_learns_in_memory(blobs, stream_of):
    X, y = blobs(900, apart=1.0)
    new, label = blobs(300, apart=1.0, seed=1)
    inside = DenseHead(**SMALL).fit(X, y)
    small = {"working_bytes": 300 * 6 * 4 * X.shape[1]}
    outside = DenseHead(**SMALL).fit_stream(stream_of(X, y, **small))
    right = [np.mean(head.predict(new) == label) for head in (inside, outside)]
    assert right[0] > 0.85
    assert right[1] == pytest.approx(right[0], abs=0.04)
    (note,) = outside.notes_
    assert "an epoch is a stretch of up to 300 of 720 images, 180 others decide when to stop" in note
    again = DenseHead(**SMALL).fit_stream(stream_of(X, y, chunk_rows=11, **small))
    assert np.array_equal(again.predict_proba(new), outside.predict_proba(new))
    assert again.history_ == outside.history_


def test_a_validation_part_that_is_given_decides_when_to_stop(blobs, stream_of):
    X, y = blobs(120)
    head = DenseHead(**SMALL).fit_stream(stream_of(X, y), X_val=X[:30], y_val=y[:30])
    assert head.n_validation_ == 30
