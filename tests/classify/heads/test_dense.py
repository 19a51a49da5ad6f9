import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.metrics import log_loss

from classify.errors import CompareError
from classify.heads.dense import DenseHead
from classify.heads.registry import SCALINGS, make_head

keras = pytest.importorskip("keras")

SMALL = {"units": (16, 8), "epochs": 30, "batch_size": 32, "learning_rate": 1e-2}


def weights_digest(head):
    return hashlib.sha256(b"".join(w.tobytes() for w in head.model_.get_weights())).hexdigest()


@pytest.mark.parametrize(("n_classes", "width", "activation"), [(2, 1, "sigmoid"), (4, 4, "softmax")])
def test_the_network_has_the_layers_of_the_tutorial(blobs, n_classes, width, activation):
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


@pytest.mark.parametrize(
    ("n_classes", "class_weight"),
    [
        (2, "balanced"),
        (3, None),
        pytest.param(2, None, marks=pytest.mark.long),
        pytest.param(3, "balanced", marks=pytest.mark.long),
    ],
)
def test_epochs_of_one_batch_agree_with_keras_fit(blobs, n_classes, class_weight):
    """Without dropout and with one batch per epoch nothing is random: Keras' fit gives the same weights."""
    from classify.heads import dense_network as net

    X, y = blobs(60, n_classes=n_classes, apart=0.5)
    keep = (y > 0) | (np.arange(60) % 5 > 1)  # unequal classes, so that weights matter
    X, y = X[keep], y[keep]
    head = DenseHead(units=(16, 8), dropout=0.0, epochs=5, patience=9, seed=4, class_weight=class_weight)
    head.fit(X, y, X_val=X, y_val=y)

    network = net.build_network(
        12, n_classes, units=(16, 8), dropout=0.0, seed=4, scaling=net.scaling_layers(X, "standardise")
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
    if class_weight is None:  # unlike Keras, the head weighs the validation loss too
        np.testing.assert_allclose(head.history_["val_loss"], history["val_loss"], rtol=1e-4)
    assert head.best_epoch_ == 5  # so these are the last epoch's weights
    # A tenth of a step of Adam, which turns the rounding of gradients near 0 into steps.
    for ours, theirs in zip(head.model_.trainable_variables, network.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4, err_msg=ours.path)


def test_parallel_fits_equal_sequential_fits(blobs):
    X, y = blobs(120, apart=0.5)
    heads = [DenseHead(**{**SMALL, "epochs": 12}, seed=seed, scaling=s) for seed in (1, 2) for s in SCALINGS]
    expected = [weights_digest(head.fit(X, y)) for head in heads]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda head: weights_digest(head.fit(X, y)), heads)) == expected
    assert len(set(expected)) == 4


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    """In a process that has fitted other heads, and in a new one with another hash seed."""
    code = (
        "import numpy as np, hashlib; from classify.heads.registry import make_head\n"
        "def digest(name, n_classes, seed, **rows):\n"
        "    X = np.random.default_rng(0).random((200, 300), dtype='f'); y = np.arange(200) % n_classes\n"
        "    head = make_head(name, params={'units': (64, 16), 'epochs': 8}, seed=seed).fit(X, y, **rows)\n"
        "    return hashlib.sha256(b''.join(w.tobytes() for w in head.model_.get_weights())).hexdigest()\n"
        "image = np.arange(200) // 6 * 3 + np.arange(200) % 3\n"
        "digests = [digest('dense', 3, 1, image=image), digest('ordinal-dense', 4, 1)]\n"
    )
    exec(code, here := {})
    there = subprocess.run(
        [sys.executable, "-c", code + "print(*digests)"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert there == here["digests"]
    assert here["digest"]("dense", 3, 2, image=here["image"]) != there[0]


def test_another_fit_in_between_changes_nothing(blobs):
    X, y = blobs()
    digest = weights_digest(DenseHead(**SMALL, seed=3).fit(X, y))
    DenseHead(**SMALL, seed=9).fit(X[:60], y[:60])
    keras.utils.set_random_seed(5)
    assert weights_digest(DenseHead(**SMALL, seed=3).fit(X, y)) == digest


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_the_saved_file_maps_raw_features_to_probabilities(blobs, n_classes, scaling, tmp_path):
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


def test_the_best_epoch_is_restored_and_patience_counts(blobs):
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


def test_validation_is_on_plain_views_of_whole_groups(blobs, monkeypatch):
    X, y = blobs(60)
    group = np.arange(60) // 6 * 3 + y  # two images per group, both of one class
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


@pytest.mark.parametrize(("n", "n_classes"), [(4, 2), (15, 3), (34, 17)])
def test_tiny_data_works(blobs, n, n_classes):
    X, y = blobs(n, n_classes=n_classes, apart=4.0)
    head = DenseHead(units=(8,), epochs=5).fit(X, y)
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (n, n_classes)
    assert np.isfinite(probabilities).all()


def test_a_class_with_one_group_is_refused_unless_validation_is_given(blobs):
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
        ({"dropout": 1.0}, r"dropout is 1\.0: expected a number"),
        ({"validation_fraction": 0}, "validation_fraction is 0: expected a number"),
        ({"learning_rate": 1e30, "units": (8,)}, "not finite after .* Lower the learning rate"),
    ],
)
def test_invalid_parameters_are_refused(blobs, params, message):
    X, y = blobs(30)
    with pytest.raises(CompareError, match=message):
        DenseHead(**params).fit(X, y)


def test_invalid_validation_rows_are_refused(blobs):
    X, y = blobs(30)
    with pytest.raises(CompareError, match="7 labels for 30 validation rows"):
        DenseHead(**SMALL).fit(X, y, X_val=X, y_val=y[:7])
    with pytest.raises(CompareError, match="Validation class '5' is not among"):
        DenseHead(**SMALL).fit(X, y, X_val=X, y_val=np.full(30, 5))


def test_balanced_weights_help_the_rare_class(blobs):
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


def test_curves_are_written_to_log_dir(blobs, tmp_path):
    X, y = blobs()
    DenseHead(**{**SMALL, "epochs": 2}, log_dir=tmp_path).fit(X, y)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "validation"]
