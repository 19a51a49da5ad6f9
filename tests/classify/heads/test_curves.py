"""TensorBoard reads the curves."""

from pathlib import Path

import numpy as np
import pytest

from classify.heads.curves import write_curves
from classify.heads.dense_training import FIGURES

pytest.importorskip("tensorboard")


def test_tensorboard_reads_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    history = {name: [1 / epoch, 0.5, 0.25 * epoch] for epoch, name in enumerate(FIGURES, start=1)}
    write_curves(tmp_path, history)
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
