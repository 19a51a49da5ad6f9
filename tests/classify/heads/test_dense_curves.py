"""Training curves: TensorBoard can read them, and the record holds plain numbers."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from classify.heads.dense_network import training_curves, write_tensorboard
from classify.heads.dense_training import METRICS

pytest.importorskip("tensorboard")


def test_tensorboard_reads_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    history = {name: [1 / epoch, 0.5, 0.25 * epoch] for epoch, name in enumerate(METRICS, start=1)}
    write_tensorboard(tmp_path, history)
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["train", "validation"]
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(tmp_path / part))
        events.Reload()
        assert sorted(events.Tags()["tensors"]) == ["epoch_accuracy", "epoch_loss"]
        for name in ("loss", "accuracy"):
            curve = events.Tensors(f"epoch_{name}")
            assert [event.step for event in curve] == [0, 1, 2]
            values = [float(make_ndarray(event.tensor_proto)) for event in curve]
            np.testing.assert_allclose(values, history[prefix + name], rtol=1e-6)


def test_curves_are_plain_numbers():
    head = SimpleNamespace(
        n_iter_=2,
        best_epoch_=1,
        history_={"loss": [0.1234567, 2.0], "val_loss": [0.5, math.nan], "accuracy": [0.5, 1.0]},
    )
    assert training_curves(head) == {
        "epochs": 2,
        "best_epoch": 1,
        "loss": [0.12346, 2.0],
        "val_loss": [0.5, None],
        "accuracy": [0.5, 1.0],
    }


def test_a_head_without_epochs_has_no_curves():
    assert training_curves(SimpleNamespace()) is None
