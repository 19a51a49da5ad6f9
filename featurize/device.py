"""Settle TensorFlow's device for what is not an engine: the dense head."""

from __future__ import annotations

from featurize.errors import ConfigError


def use_device(device: str = "auto", *, gpu_memory: float | None = None) -> str:
    """Tell TensorFlow, before it starts, which device to use; return it.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" or "gpu:N"; of several GPUs the first.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take at once, in (0, 1]; by default it grows as needed.

    Raises
    ------
    ConfigError, EngineError
        As for extraction.
    """
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
    import tensorflow as tf  # some seconds

    from featurize.engines.devices import settle_device

    return settle_device(device, gpu_memory=gpu_memory, most=1, config=tf.config).device
