"""The GPU path on two logical CPU devices in place of GPUs, in a separate process; prints JSON.

The network is the mean of each channel, so that features are known by hand; an image that begins with 255
raises an error in the graph. The process exits while batches are running.
"""

import dataclasses
import json
import threading

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.engines import freeze, tensorflow as engine_module
from featurize.engines.device import Placement
from featurize.engines.freeze import FrozenForward, NetworkSpec, frozen_forward
from featurize.errors import EngineError

SIZE = 32
MORE_THAN_THERE_IS = 1 << 44  # elements of 4 bytes
NAMES = ("/CPU:1", "/CPU:2")
EDGES = ("Placeholder", "Identity", "NoOp")  # where a function begins and ends


class MeanNetworks:
    """Replaces `frozen_forward`; records the batch sizes."""

    def __init__(self, *, fits=10**6):
        self.fits, self.batch_sizes = fits, []

    def __call__(self, spec, *, device_name, **_):
        batch_size, input_size = spec.batch_size, spec.input_size
        self.batch_sizes.append(batch_size)
        weights = tf.Variable(np.eye(3, dtype=np.float32))

        @tf.function(input_signature=[tf.TensorSpec((batch_size, input_size, input_size, 3), tf.uint8)])
        def forward(images):
            with tf.device(device_name):
                pixels = tf.cast(images, tf.float32)
                means = tf.linalg.matmul(tf.reduce_mean(pixels, axis=(1, 2)), weights)
                if batch_size > self.fits:
                    means += tf.reduce_sum(tf.random.uniform([MORE_THAN_THERE_IS]))
                whole = tf.debugging.Assert(pixels[0, 0, 0, 0] < 255, ["a broken image"])
                with tf.control_dependencies([whole]):
                    return tf.identity(means)

        function = convert_variables_to_constants_v2(forward.get_concrete_function())
        return FrozenForward(function=function, level_names=("final",), level_ends=(3,))


def images(n, *, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 255, (n, size, size, 3), dtype=np.uint8)


def make_engine(name="mobilenet_v2", *, networks=None, models=("L4",), **options):
    engine_module.frozen_forward = networks or MeanNetworks()
    engine_module.resolve_device = lambda *_, **__: Placement(
        device="gpu:0,gpu:1", names=NAMES, models=models
    )
    backbone = get_backbone(name)
    options = {"input_size": SIZE, "batch_size": 4, "precision": "float32", **options}
    return engine_module.TensorFlowEngine(
        backbone,
        find_weights(backbone, "random"),
        preprocess="native",
        statistics=None,
        device="gpu",
        gpu_memory=None,
        **options,
    )


def off_by(features, batch):
    return float(np.abs(features - batch.mean(axis=(1, 2))).max())


def error_of(work, *arguments, **options):
    try:
        work(*arguments, **options)
    except EngineError as error:
        return f"{type(error).__name__}: {error}"
    return None


def features():
    """Batches of every size, results taken forwards and backwards."""
    networks = MeanNetworks()
    engine = make_engine(networks=networks, models=("L4", "T4"))
    worst = 0.0
    for order in (1, -1):
        batches = [images(1 + number % 4, seed=number) for number in range(24)]
        pending = [engine.submit(batch) for batch in batches]
        for batch, one in list(zip(batches, pending, strict=True))[::order]:
            worst = max(worst, off_by(one.result(), batch))
    return {
        "worst": worst,
        "device": engine.device,
        "in_flight": engine.in_flight,
        "threads": [thread.name for thread in engine._queues._threads],
        "notes": engine.notes,
        "frozen": networks.batch_sizes,
    }


def placement():
    """Where a placed graph computes, and whether a real network's devices agree."""
    backbone = get_backbone("efficientnet_lite0")
    spec = NetworkSpec(
        backbone=backbone,
        weights=find_weights(backbone, "imagenet"),
        input_size=SIZE,
        preprocess="native",
        statistics=None,
        levels=False,
        batch_size=4,
    )
    function = MeanNetworks()(spec, device_name="/CPU:0").function
    found = {}
    for name in NAMES:
        placed = freeze.place_on_device(function, name)
        with tf.device(name):
            (result,) = placed(tf.constant(images(4)))
        nodes = {node.device for node in placed.graph.get_operations() if node.type not in EDGES}
        found[name] = [result.device.rpartition("device:")[2], *sorted(nodes)]
    real = frozen_forward(
        dataclasses.replace(spec, input_size=64, batch_size=2), precision="float32", device_name="/CPU:0"
    ).function
    here, one, other = (
        freeze.forward_function(
            real if name is None else freeze.place_on_device(real, name), name, device="gpu"
        )(images(2, size=64))
        for name in (None, *NAMES)
    )
    return {"devices": found, "equal": [bool(np.array_equal(here, there)) for there in (one, other)]}


def an_error():
    engine = make_engine()
    broken = images(4)
    broken[0, 0, 0, 0] = 255
    pending = [engine.submit(broken if number == 5 else images(4, seed=number)) for number in range(12)]
    errors = [error_of(one.result) for one in pending]
    after = images(3, seed=50)
    return {
        "errors": {number: error for number, error in enumerate(errors) if error},
        "after": off_by(engine(after), after),
    }


def too_large():
    """TensorFlow's own error for memory that nobody has."""
    networks = MeanNetworks(fits=10)
    engine = make_engine(networks=networks, batch_size="auto")
    never = MeanNetworks(fits=0)
    return {
        "batch_size": engine.batch_size,
        "notes": engine.notes,
        "worst": off_by(engine(images(8)), images(8)),
        "forced": error_of(make_engine, networks=MeanNetworks(fits=10), batch_size=16),
        "never": error_of(make_engine, networks=never, batch_size="auto"),
        "frozen": networks.batch_sizes,
        "tried": never.batch_sizes,
    }


def ended():
    """All those engines are gone, and so should their threads be."""
    for thread in threading.enumerate():
        if thread.name.startswith("folio-device"):
            thread.join(60)
    return sum(thread.name.startswith("folio-device") for thread in threading.enumerate())


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    scenarios = (features, placement, an_error, too_large, ended)
    print(json.dumps({scenario.__name__: scenario() for scenario in scenarios}))
    engine = make_engine(batch_size=64)
    main.under_way = [engine.submit(images(64)) for _ in range(engine.in_flight)]


if __name__ == "__main__":
    main()
