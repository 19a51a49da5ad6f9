"""Training curves for TensorBoard (TensorFlow is imported on first use)."""

from __future__ import annotations

from pathlib import Path


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
