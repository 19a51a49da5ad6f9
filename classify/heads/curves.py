"""Training curves of the dense heads: as plain figures, and for TensorBoard.

TensorFlow is imported on first use.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_DIGITS = 5  # more than any plot shows


def training_curves(estimator: Any) -> dict[str, Any] | None:
    """Return how a fitted head was trained, epoch by epoch; None of a head that has no epochs.

    Parameters
    ----------
    estimator : estimator
        Fitted, not loaded.

    Returns
    -------
    dict or None
        ``epochs``, ``best_epoch`` (the one kept, counted from 1), and ``loss``, ``accuracy``, ``val_loss``
        and ``val_accuracy``: one figure an epoch, None where it is not finite.
    """
    history = getattr(estimator, "history_", None)
    if history is None:
        return None
    return {
        "epochs": estimator.n_iter_,
        "best_epoch": estimator.best_epoch_,
        **{name: [_rounded(figure) for figure in figures] for name, figures in history.items()},
    }


def _rounded(figure: float) -> float | None:
    return round(figure, _DIGITS) if math.isfinite(figure) else None


def write_curves(log_dir: str | Path, history: dict[str, list[float]]) -> None:
    """Write epoch_loss and epoch_accuracy, train and validation, as Keras' TensorBoard callback would."""
    import tensorflow as tf

    for part, prefix in (("train", ""), ("validation", "val_")):
        writer = tf.summary.create_file_writer(str(Path(log_dir) / part))
        with writer.as_default():
            for name in ("loss", "accuracy"):
                for step, value in enumerate(history[prefix + name]):
                    tf.summary.scalar(f"epoch_{name}", value, step=step)
        writer.close()
