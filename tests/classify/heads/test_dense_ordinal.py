"""The dense head for ordered classes: one score and ascending thresholds at its end."""

import hashlib

import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_absolute_error

from classify.errors import CompareError
from classify.heads import dense_network as net, dense_training as training
from classify.heads.cumulative_link import get_thresholds
from classify.heads.dense import DenseHead
from classify.heads.registry import HEADS, make_head, validate_params

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

SMALL = {"units": (16, 8), "epochs": 30, "batch_size": 32, "learning_rate": 1e-2}


def grades(n, *, n_classes=5, n_features=20, seed=0):
    """Return rows along one direction, divided into unequal ordered classes, with noise in all directions."""
    generator = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=n_features)
    hidden = generator.normal(size=n)
    X = hidden[:, None] * direction * 0.5 + generator.normal(size=(n, n_features))
    cuts = np.quantile(hidden, np.linspace(0, 1, n_classes + 1)[1:-1] ** 1.3)
    return X.astype(np.float32), np.digitize(hidden + 0.3 * generator.normal(size=n), cuts)


def digest(head):
    return hashlib.sha256(b"".join(w.tobytes() for w in head.model_.get_weights())).hexdigest()


def test_the_network_ends_in_one_score_and_thresholds():
    X, y = grades(60)
    head = make_head("ordinal-dense", params={"epochs": 1}).fit(X, y)
    layers = head.model_.layers[-3:]
    assert [(layer.name, layer.units, layer.activation.__name__) for layer in layers] == [
        ("score", 1, "linear"),
        ("thresholds", 8, "log_sigmoid"),
        ("probabilities", 5, "softmax"),
    ]
    assert {type(layer).__module__.split(".")[0] for layer in head.model_.layers} == {"keras"}
    assert (np.diff(get_thresholds(head.model_)) > 0).all()


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_an_epoch_agrees_with_keras_on_the_explicit_likelihood(class_weight):
    """Keras' layers and Adam, with gradients of the plain differences of sigmoids, give the same weights."""
    X, y = grades(70, n_classes=4)
    weight = len(y) / (4 * np.bincount(y)) if class_weight else np.ones(4)
    start = np.array([-0.5, 0.2, 1.0])
    rows = training.as_tensors(
        X=X, start=np.arange(70), count=np.ones(70), y=y, X_val=X, y_val=y, class_weight=weight
    )
    ours, theirs = (
        net.build_network(20, 4, units=(16, 8), dropout=0.0, seed=4, thresholds=start) for _ in range(2)
    )
    state = training.initial_state(ours)
    trunk = keras.Model(theirs.inputs[0], theirs.get_layer("score").output)
    free = keras.Variable([-0.5, *np.log(np.exp([0.7, 0.8]) - 1)], dtype="float32")
    adam = keras.optimizers.Adam(3e-3)
    epoch = training.epoch_function(20, 4, (16, 8), 0.0, ordinal=True)
    for number in (1, 2, 3):
        seed = np.array([2, number], np.int32)
        figures = epoch(state, rows, seed, np.float32(0), np.float32(3e-3), np.int64(32)).numpy()
        row, losses = training._sample_views(rows, seed)[0].numpy(), []
        for part in (row[:23], row[23:46], row[46:]):
            with tf.GradientTape() as tape:
                score = trunk(X[part], training=True)
                first, *gaps = tf.unstack(tf.convert_to_tensor(free))
                second = first + tf.math.log(1 + tf.exp(gaps[0]))
                third = second + tf.math.log(1 + tf.exp(gaps[1]))
                below = tf.sigmoid(tf.stack([first, second, third]) - score)
                ends = tf.concat([tf.zeros_like(score), below, tf.ones_like(score)], axis=1)
                own = tf.gather(ends, y[part] + 1, batch_dims=1) - tf.gather(ends, y[part], batch_dims=1)
                loss = tf.reduce_mean(-tf.math.log(own) * weight[y[part]].astype("f"))
            variables = [*trunk.trainable_variables, free]
            adam.apply(tape.gradient(loss, variables), variables)
            losses.append(float(loss))
        np.testing.assert_allclose(figures[0], np.average(losses, weights=[23, 23, 24]), rtol=1e-4)
    expected = [*trunk.trainable_variables, free]
    for mine, other in zip(state.weights, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=3e-4, err_msg=other.path)
    assert (
        np.abs(free.numpy() - [-0.5, *np.log(np.exp([0.7, 0.8]) - 1)]).min() > 1e-3
    )  # the thresholds are trained


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
def test_two_classes_give_the_nominal_head(blobs, scaling):
    X, y = blobs(60, n_classes=2)
    ordinal, nominal = (
        make_head(name, params={**SMALL, "scaling": scaling}, seed=3).fit(X, y)
        for name in ("ordinal-dense", "dense")
    )
    assert digest(ordinal) == digest(nominal)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_the_saved_file_predicts_the_same(n_classes, tmp_path):
    X, y = grades(120, n_classes=n_classes)
    head = make_head("ordinal-dense", params=SMALL).fit(X, y)
    head.save(tmp_path / "head.keras")
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (120, n_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    loaded = DenseHead.load(tmp_path / "head.keras", head.classes_)
    assert loaded.output == "ordinal"
    np.testing.assert_allclose(loaded.predict_proba(X), probabilities, atol=1e-6)
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))


def test_the_best_epoch_s_thresholds_are_in_the_network():
    X, y = grades(150)
    X_val, y_val = grades(100, seed=1)
    head = make_head("ordinal-dense", params={**SMALL, "epochs": 200, "patience": 7})
    head.fit(X, y, X_val=X_val, y_val=y_val)
    losses = head.history_["val_loss"]
    assert head.best_epoch_ == 1 + int(np.argmin(losses))
    assert head.n_iter_ == head.best_epoch_ + 7
    assert log_loss(y_val, head.predict_proba(X_val)) == pytest.approx(min(losses), abs=1e-5)
    assert np.mean(head.predict(X_val) == y_val) == pytest.approx(
        head.history_["val_accuracy"][head.best_epoch_ - 1], abs=1e-6
    )


def test_equal_seeds_give_equal_bytes():
    X, y = grades(90)
    first = digest(make_head("ordinal-dense", params=SMALL, seed=3).fit(X, y))
    make_head("dense", params=SMALL, seed=3).fit(X, y)
    assert digest(make_head("ordinal-dense", params=SMALL, seed=3).fit(X, y)) == first
    assert digest(make_head("ordinal-dense", params=SMALL, seed=4).fit(X, y)) != first


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 0.0, 2: 3.0}])
def test_class_weights_are_used_in_the_loss(class_weight):
    X, y = grades(90, n_classes=3)
    head = make_head("ordinal-dense", params={**SMALL, "class_weight": class_weight}).fit(X, y)
    probabilities = head.predict_proba(X)
    assert np.isfinite(probabilities).all()
    if isinstance(class_weight, dict):
        assert probabilities[:, 1].mean() < 0.1  # a class of weight 0 is ignored


def test_parameters_that_define_the_head_cannot_be_set():
    assert HEADS["ordinal-dense"].ordered
    assert HEADS["ordinal-dense"].nominal == "dense"
    for name in ("dense", "ordinal-dense"):
        with pytest.raises(CompareError, match=f"'output' defines the head '{name}'"):
            validate_params(name, {"output": "ordinal"})
    with pytest.raises(CompareError, match="Unknown output 'rank': expected one of nominal, ordinal"):
        DenseHead(output="rank").fit(*grades(30))


def test_the_absolute_error_is_smaller_than_that_of_the_nominal_head(long):
    """Eight ordered classes, over seeds: a smaller mean absolute error, and a better likelihood.

    With half as many images, or five classes, only the likelihood is reliably better.
    """
    errors, losses = [], []
    for seed in range(5 if long else 2):
        X, y = grades(300, n_classes=8, seed=seed)
        X_new, y_new = grades(1500, n_classes=8, seed=100 + seed)
        heads = [make_head(name, seed=seed).fit(X, y) for name in ("ordinal-dense", "dense")]
        errors.append([mean_absolute_error(y_new, head.predict(X_new)) for head in heads])
        losses.append([log_loss(y_new, head.predict_proba(X_new)) for head in heads])
    ours, theirs = np.mean(errors, axis=0)
    assert ours < theirs
    ours, theirs = np.mean(losses, axis=0)
    assert ours < theirs


def test_the_head_is_compared_and_saved_in_a_bundle(make_store, tmp_path):
    from classify.data.samples import load_samples
    from classify.io.bundle import load_bundle
    from classify.jobs.compare import compare
    from classify.jobs.options import DenseOptions

    store = make_store(n_features=6, classes=("low", "middle", "high"))
    order = ("low", "middle", "high")
    dense = DenseOptions(units=(8,), epochs=3)
    done = compare([store], heads=("ordinal-dense",), order=order, out=tmp_path / "run", dense=dense, jobs=1)
    result = done.record["results"][0]
    assert (result["head"], result["status"]) == ("ordinal-dense", "ok")
    assert result["params"]["units"] == [8]
    assert "output" not in result["params"]
    assert list((done.tensorboard / "efficientnet_lite0__ordinal-dense" / "validation").glob("events.*"))
    (bundle,) = (tmp_path / "run" / "bundles").glob("*ordinal-dense*")
    assert (bundle / "head.keras").is_file()
    samples = load_samples(store, order=order)
    probabilities = load_bundle(bundle).predict_proba(samples.plain, samples.config_digest)
    assert probabilities.shape == (len(samples.plain), 3)
