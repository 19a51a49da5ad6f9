import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler, normalize

from classify.heads import SCALINGS, dense, make_head
from classify.heads.dense import DenseHead
from classify.heads.rows import rows_by_image, validation_images
from featurize.errors import CompareError

keras = pytest.importorskip("keras")

NO_LEARNING = (np.float32(0), np.int64(32), np.float32(0))  # best loss, batch size, learning rate
SMALL = {"units": (16, 8), "epochs": 30, "batch_size": 32, "learning_rate": 1e-2}


def blobs(n=90, n_features=12, n_classes=3, *, seed=0, apart=2.0):
    """Return features like a backbone's, float32 and not negative, and their classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features)) * apart
    return np.maximum(centres[y] + generator.normal(size=(n, n_features)) + 1, 0).astype(np.float32), y


def weights_digest(head):
    return hashlib.sha256(b"".join(w.tobytes() for w in head.model_.get_weights())).hexdigest()


@pytest.mark.parametrize(("n_classes", "width", "activation"), [(2, 1, "sigmoid"), (4, 4, "softmax")])
def test_the_network_is_the_tutorial_s(n_classes, width, activation):
    X, y = blobs(40, n_classes=n_classes)
    head = DenseHead(epochs=1).fit(X, y)
    layers = head.model_.layers[1:]  # the first one scales
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["BatchNormalization", *["Dense"] * 3, "BatchNormalization", "Dropout", "Dense"]
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert [(layer.units, layer.activation.__name__) for layer in dense] == [
        (512, "relu"),
        (128, "relu"),
        (64, "relu"),
        (width, activation),
    ]
    assert layers[5].rate == 0.2
    assert {
        key: DenseHead().get_params()[key] for key in ("learning_rate", "epochs", "batch_size", "patience")
    } == {"learning_rate": 1e-3, "epochs": 300, "batch_size": 128, "patience": 30}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_one_batch_epochs_are_keras_own(n_classes, class_weight):
    """Without dropout and with one batch an epoch nothing is drawn: Keras' fit must give these weights."""
    from classify.heads import dense_network as net

    X, y = blobs(60, n_classes=n_classes, apart=0.5)
    keep = (y > 0) | (np.arange(60) % 5 > 1)  # unequal classes, so that weights matter
    X, y = X[keep], y[keep]
    head = DenseHead(units=(16, 8), dropout=0.0, epochs=5, patience=9, seed=4, class_weight=class_weight)
    head.fit(X, y, X_val=X, y_val=y)

    network = net.build_network(
        12, n_classes, units=(16, 8), dropout=0.0, seed=4, before=net.scaling_layers(X, "standardise")
    )
    loss = "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy"
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    shares = np.bincount(y) / len(y)
    weights = {c: 1 / (n_classes * shares[c]) for c in range(n_classes)} if class_weight else None
    history = network.fit(
        X, y, epochs=5, batch_size=64, shuffle=False, class_weight=weights, verbose=0, validation_data=(X, y)
    ).history
    np.testing.assert_allclose(head.history_["loss"], history["loss"], rtol=1e-4)
    np.testing.assert_allclose(head.history_["accuracy"], history["accuracy"], atol=1e-6)
    if class_weight is None:  # ours weighs the validation loss too
        np.testing.assert_allclose(head.history_["val_loss"], history["val_loss"], rtol=1e-4)
    assert head.best_epoch_ == 5  # so these are the last epoch's weights
    # A tenth of one of Adam's steps: where a gradient is nearly 0, it makes a step of the rounding.
    for ours, theirs in zip(head.model_.trainable_variables, network.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4, err_msg=ours.path)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_epoch_of_several_steps_is_keras_own(n_classes):
    """The batches drawn for an epoch, one after another through Keras' own train step, give these weights."""
    from classify.heads import dense_network as net, dense_training as training

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
    state = training.first_state(ours)
    epoch = training.epoch_function(12, n_classes, (16, 8), 0.0)
    for number in range(1, 4):
        seed = np.array([2, number], np.int32)
        figures = epoch(state, rows, seed, np.float32(0), np.int64(32), np.float32(3e-3)).numpy()
        row = training._draw(rows, seed)[0].numpy()
        assert sorted(row) == list(range(70))
        losses = [theirs.train_on_batch(X[part], y[part]) for part in (row[:23], row[23:46], row[46:])]
        np.testing.assert_allclose(figures[0], np.average(losses, weights=[23, 23, 24]), rtol=1e-4)
    assert float(state.steps) == 9
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        if "seed" not in mine.path:
            np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=3e-4, err_msg=mine.path)


def test_fits_in_threads_are_those_of_one_after_another():
    X, y = blobs(120, apart=0.5)
    heads = [DenseHead(**{**SMALL, "epochs": 12}, seed=seed, scaling=s) for seed in (1, 2) for s in SCALINGS]
    expected = [weights_digest(head.fit(X, y)) for head in heads]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda head: weights_digest(head.fit(X, y)), heads)) == expected
    assert len(set(expected)) == 4


def test_a_fit_in_another_thread_can_be_stopped():
    X, y = blobs()
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(
            DenseHead(units=(8,), epochs=10**9, patience=10**9, learning_rate=1e-9).fit, X, y
        )
        time.sleep(0.5)
        assert not endless.done()
        dense.stopping.set()
        try:
            assert "was stopped" in str(endless.exception(timeout=60))
        finally:
            dense.stopping.clear()


def test_each_epoch_draws_one_view_an_image_evenly():
    """The first batch norm's moving mean gives the batch's mean away, and its digits the rows drawn."""
    from classify.heads import dense_network as net, dense_training as training

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
    state = training.first_state(net.build_network(1, 2, units=(2,), dropout=0.0, seed=0))
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
def test_a_rest_of_one_image_is_spread_over_the_steps(n_images, steps):
    """A step on one image alone has no variance: batch norm would pull its moving variance towards zero."""
    from classify.heads import dense_network as net, dense_training as training

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
    state = training.first_state(net.build_network(1, 2, units=(2,), dropout=0.0, seed=0))
    epoch = training.epoch_function(1, 2, (2,), 0.0)
    for number in range(20):
        figures = epoch(state, rows, np.array([1, number], np.int32), *NO_LEARNING)
        assert np.isfinite(figures.numpy()).all()
    assert float(state.steps) == 20 * steps
    moving = 0.99 ** (
        20 * steps
    )  # share of the first value, 1, that is left; every step's variance is near 100
    assert float(state.moving[1][0]) == pytest.approx(moving + (1 - moving) * 100, rel=0.05)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        "import numpy as np, hashlib; from classify.heads.dense import DenseHead\n"
        "X = np.random.default_rng(0).random((200, 300), dtype='f'); y = np.arange(200) % 3\n"
        "head = DenseHead(units=(64, 16), epochs=8, seed=SEED).fit(X, y, image=np.arange(200) // 6 * 3 + y)\n"
        "print(hashlib.sha256(b''.join(w.tobytes() for w in head.model_.get_weights())).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", code.replace("SEED", seed)],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, salt in (("1", "0"), ("1", "7"), ("2", "0"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_another_fit_in_between_changes_nothing():
    X, y = blobs()
    digest = weights_digest(DenseHead(**SMALL, seed=3).fit(X, y))
    DenseHead(**SMALL, seed=9).fit(X[:60], y[:60])
    keras.utils.set_random_seed(5)
    assert weights_digest(DenseHead(**SMALL, seed=3).fit(X, y)) == digest


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_the_saved_file_maps_raw_features_to_probabilities(n_classes, scaling, tmp_path):
    X, y = blobs(n_classes=n_classes)
    names = np.array(["award", "low", "middle"])
    head = DenseHead(**SMALL, scaling=scaling).fit(X, names[y])
    head.save(tmp_path / "head.keras")
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (len(X), n_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)

    plain = keras.models.load_model(tmp_path / "head.keras", safe_mode=True)(X).numpy()
    np.testing.assert_allclose(
        plain if n_classes == 3 else np.hstack([1 - plain, plain]), probabilities, atol=1e-6
    )
    loaded = DenseHead.load(tmp_path / "head.keras", head.classes_)
    np.testing.assert_array_equal(loaded.predict_proba(X), probabilities)
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
    assert loaded.n_features_in_ == 12


def test_standardising_is_scikit_learn_s_constant_columns_included():
    from classify.heads import dense_network as net

    X, _ = blobs()
    X[:, 3], X[:, 4] = 0.1, 0.0
    (layer,) = net.scaling_layers(X, "standardise")
    expected = StandardScaler().fit(X.astype(np.float64)).transform(X.astype(np.float64))
    np.testing.assert_allclose(layer(X).numpy(), expected, atol=1e-5)
    X[:, 3] += 1e-3  # an unseen value in a column that was constant stays small
    assert np.abs(layer(X).numpy()[:, 3]).max() < 1e-2


def test_l2_scaling_is_scikit_learn_s_times_a_constant():
    from classify.heads import dense_network as net

    X, _ = blobs()
    X[5] = 0.0
    scaled = X
    for layer in net.scaling_layers(X, "l2"):
        scaled = layer(scaled)
    np.testing.assert_allclose(scaled.numpy(), normalize(X) * 12**0.5, atol=1e-5)


def test_the_best_epoch_is_restored_and_patience_counts():
    X, y = blobs(120, apart=0.4)
    X_val, y_val = blobs(90, apart=0.4, seed=1)
    head = DenseHead(units=(64,), learning_rate=1e-2, epochs=200, patience=7).fit(
        X, y, X_val=X_val, y_val=y_val
    )
    losses = head.history_["val_loss"]
    assert head.best_epoch_ == 1 + int(np.argmin(losses))
    assert len(losses) == head.n_iter_ == head.best_epoch_ + 7
    assert log_loss(y_val, head.predict_proba(X_val)) == pytest.approx(min(losses), abs=1e-5)
    assert np.mean(head.predict(X_val) == y_val) == pytest.approx(
        head.history_["val_accuracy"][head.best_epoch_ - 1], abs=1e-6
    )


def test_validation_is_on_plain_views_of_whole_groups(monkeypatch):
    X, y = blobs(60)
    group = np.arange(60) // 6 * 3 + y  # two images each, of one class
    image = np.tile(np.arange(60), 3)
    views = np.concatenate([X, X + 100, X + 200])  # plain rows stay below 100
    seen = {}

    def spy(self, X, y, image, X_val, y_val):
        seen.update(X=X, image=image, X_val=X_val)

    monkeypatch.setattr(DenseHead, "_train", spy)
    DenseHead(seed=2).fit(views, np.tile(y, 3), groups=np.tile(group, 3), image=image)
    assert seen["X_val"].max() < 100
    held = [i for i in range(60) if (seen["X_val"] == X[i]).all(axis=1).any()]
    assert len(held) == len(seen["X_val"]) == 12  # two of ten groups in each of three classes
    assert not set(held) & set(seen["image"])
    assert not set(group[held]) & set(group[seen["image"]])
    assert len(seen["X"]) == 3 * (60 - 12)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_images_set_aside_part_no_group_and_empty_no_class(data):
    n_classes = data.draw(st.integers(2, 5))
    sizes = data.draw(st.lists(st.integers(2, 12), min_size=n_classes, max_size=n_classes))
    y = np.repeat(np.arange(n_classes), [2 * size for size in sizes])
    groups = np.concatenate([100 * k + np.arange(2 * size) // 2 for k, size in enumerate(sizes)])
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(y))
    y, groups = y[order], groups[order]
    aside = validation_images(y, groups, fraction=0.2, seed=data.draw(st.integers(0, 99)))
    assert not set(groups[aside]) & set(groups[~aside])
    for k, size in enumerate(sizes):
        assert aside[y == k].sum() == 2 * max(1, round(0.2 * size))


def test_groups_that_mix_classes_do_not_empty_a_class():
    y = np.array([0, 0, 1, 1, 1, 2, 2])
    groups = np.array([0, 1, 0, 2, 3, 0, 4])  # group 0 holds images of all three
    for seed in range(20):
        aside = validation_images(y, groups, fraction=0.2, seed=seed)
        assert set(y[aside]) == set(y[~aside]) == {0, 1, 2}
        assert not set(groups[aside]) & set(groups[~aside])


@pytest.mark.parametrize(("n", "n_classes"), [(4, 2), (15, 3), (34, 17)])
def test_tiny_data_works(n, n_classes):
    X, y = blobs(n, n_classes=n_classes, apart=4.0)
    head = DenseHead(units=(8,), epochs=5).fit(X, y)
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (n, n_classes)
    assert np.isfinite(probabilities).all()


def test_a_class_with_one_group_is_refused_unless_validation_is_given():
    X, y = blobs(30)
    groups = np.where(y == 1, 1000, np.arange(30))
    with pytest.raises(CompareError, match="Class '1' has a single group"):
        DenseHead(**SMALL).fit(X, y, groups=groups)
    assert DenseHead(**SMALL).fit(X, y, groups=groups, X_val=X, y_val=y).n_validation_ == 30


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs is 0: expected a positive"),
        ({"units": (8, 0)}, "units is 0: expected a positive"),
        ({"dropout": 1.0}, r"dropout is 1\.0: expected a share"),
        ({"validation_fraction": 0}, "validation_fraction is 0: expected a share"),
        ({"learning_rate": 1e30, "units": (8,)}, "not finite after .* Lower the learning rate"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    X, y = blobs(30)
    with pytest.raises(CompareError, match=message):
        DenseHead(**params).fit(X, y)


def test_validation_rows_must_fit():
    X, y = blobs(30)
    with pytest.raises(CompareError, match="7 labels for 30 validation rows"):
        DenseHead(**SMALL).fit(X, y, X_val=X, y_val=y[:7])
    with pytest.raises(CompareError, match="Validation class '5' is not among"):
        DenseHead(**SMALL).fit(X, y, X_val=X, y_val=np.full(30, 5))


def test_balanced_weights_help_the_rare_class():
    X, y = blobs(400, n_classes=2, apart=0.25)
    keep = (y == 0) | (np.arange(400) % 10 == 1)
    X_new, y_new = blobs(400, n_classes=2, apart=0.25, seed=1)
    found = [
        np.mean(
            make_head("dense", params=SMALL, class_weight=w).fit(X[keep], y[keep]).predict(X_new)[y_new == 1]
        )
        for w in (None, "balanced")
    ]
    assert found[1] > found[0] + 0.1


def test_tensorboard_reads_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    X, y = blobs()
    head = DenseHead(**{**SMALL, "epochs": 4}, log_dir=tmp_path).fit(X, y)
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["train", "validation"]
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(tmp_path / part))
        events.Reload()
        assert sorted(events.Tags()["tensors"]) == ["epoch_accuracy", "epoch_loss"]
        for name in ("loss", "accuracy"):
            curve = events.Tensors(f"epoch_{name}")
            assert [event.step for event in curve] == [0, 1, 2, 3]
            values = [float(make_ndarray(event.tensor_proto)) for event in curve]
            np.testing.assert_allclose(values, head.history_[prefix + name], rtol=1e-6)
