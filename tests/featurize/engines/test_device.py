"""Choice and configuration of devices, with simulated GPUs and a simulated `tf.config`."""

import re
import subprocess
import sys
import types

import pytest
from hypothesis import given, strategies as st

from featurize.engines.device import DevicePlan, configure_devices, parse_device, plan_device, resolve_device
from featurize.errors import ConfigError, EngineError

# --- how devices are written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "parsed"),
    [("auto", ("auto", ())), ("cpu", ("cpu", ())), ("gpu", ("gpu", ())), ("gpu:3", ("gpu", (3,))),
     ("gpu:0,gpu:2", ("gpu", (0, 2))), ("gpu:2,gpu:0", ("gpu", (0, 2))), ("gpu:10,gpu:9", ("gpu", (9, 10)))],
)  # fmt: skip
def test_parse_device(written, parsed):
    assert parse_device(written) == parsed


@pytest.mark.parametrize(
    "written",
    ["gpu:x", "gpu:-1", "gpus", "", "cuda:0", "gpu:", "gpu:0,", "gpu:0, gpu:1", "gpu:0,1", "gpu,gpu:1",
     "cpu:0", "gpu:0,cpu", "GPU:0", "gpu:٣", "gpu:0\n"],
)  # fmt: skip
def test_an_invalid_device(written):
    expected = f"--device {written}: expected auto, cpu, gpu or gpu:N, such as gpu:0, or several: gpu:0,gpu:1"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        plan_device(written, n_gpus=4)


def test_a_gpu_listed_twice():
    with pytest.raises(ConfigError, match=r"^--device gpu:1,gpu:01: lists a GPU twice\. List each GPU once$"):
        parse_device("gpu:1,gpu:01")


@given(st.sets(st.integers(0, 99), min_size=1).flatmap(lambda numbers: st.permutations(sorted(numbers))))
def test_the_name_of_a_plan_is_parsed_as_the_same_plan(numbers):
    """The name in a store's record can be typed again."""
    plan = plan_device(",".join(f"gpu:{number}" for number in numbers), n_gpus=100)
    assert parse_device(plan.device) == ("gpu", tuple(sorted(numbers)))


def test_parsing_imports_no_tensorflow():
    code = "import sys, featurize.engines.device; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- which are taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "n_gpus", "max_gpus", "device"),
    [("auto", 0, None, "cpu"), ("auto", 1, None, "gpu:0"), ("auto", 3, None, "gpu:0,gpu:1,gpu:2"),
     ("gpu", 2, None, "gpu:0,gpu:1"), ("cpu", 2, None, "cpu"), ("gpu:1", 2, None, "gpu:1"),
     ("gpu:2,gpu:0", 3, None, "gpu:0,gpu:2"),
     ("auto", 3, 1, "gpu:0"), ("gpu:2,gpu:1", 3, 1, "gpu:1"), ("auto", 0, 1, "cpu")],
)  # fmt: skip
def test_the_devices_that_are_used(asked, n_gpus, max_gpus, device):
    plan = plan_device(asked, n_gpus=n_gpus, max_gpus=max_gpus)
    assert plan.device == device
    assert plan.memory_limits == (None,) * len(plan.gpus)
    assert plan.explicit == (":" in asked)


@pytest.mark.parametrize(
    ("asked", "n_gpus", "visible", "text"),
    [
        ("gpu:1", 0, None, r"--device gpu:1: TensorFlow finds no GPU here\. Type --device cpu$"),
        ("gpu", 0, "", r"finds no GPU here \(CUDA_VISIBLE_DEVICES is ''\)\. Type --device cpu$"),
        ("gpu:2", 2, "3,1", r"gpu:0, gpu:1 here \(CUDA_VISIBLE_DEVICES is '3,1'\)\. Type --device gpu:1$"),
        ("gpu:0,gpu:2", 2, None, r"--device gpu:0,gpu:2: .* gpu:0, gpu:1 here\. Type --device gpu$"),
    ],
)  # fmt: skip
def test_a_gpu_that_does_not_exist(asked, n_gpus, visible, text):
    with pytest.raises(EngineError, match=text):
        plan_device(asked, n_gpus=n_gpus, visible=visible)


def test_a_fraction_of_each_gpus_memory():
    """Half of 80 GiB is 40960 MiB, half of 16 GiB is 8192 MiB."""
    total = {0: 1 << 30, 1: 80 << 30, 2: 16 << 30}.__getitem__
    plan = plan_device("gpu:1,gpu:2", n_gpus=3, gpu_memory=0.5, gpu_total=total)
    assert plan.memory_limits == (40960, 8192)


def test_a_gpu_with_unknown_memory():
    with pytest.raises(EngineError, match=r"cannot determine the memory of gpu:0\. Leave the option out"):
        plan_device("gpu:0", n_gpus=1, gpu_memory=0.5, gpu_total=lambda index: 0)


def test_the_fraction_has_no_effect_on_a_cpu():
    plan = plan_device("cpu", n_gpus=1, gpu_memory=0.5, gpu_total=lambda index: 1 << 30)
    assert (plan.device, plan.memory_limits) == ("cpu", ())


# --- configuration of TensorFlow ----------------------------------------------------------------------


class _Config:
    """What `tf.config` does about GPUs; once started it refuses changes, as TensorFlow does."""

    def __init__(self, n_gpus, *, started=False, models=None):
        self.gpus = [f"GPU {i}" for i in range(n_gpus)]
        self.models = models or ["NVIDIA L4"] * n_gpus
        self.visible, self.limits, self.growing, self.started = list(self.gpus), {}, set(), started
        self.experimental = types.SimpleNamespace(
            set_memory_growth=self.set_memory_growth,
            get_device_details=lambda gpu: {"device_name": self.models[self.gpus.index(gpu)]},
        )

    def list_physical_devices(self, kind):
        return list(self.gpus)

    def get_visible_devices(self, kind):
        return list(self.visible)

    def set_visible_devices(self, devices, kind):
        if self.visible != list(devices):
            self._change()
        self.visible = list(devices)

    def LogicalDeviceConfiguration(self, memory_limit):  # TensorFlow's name
        return types.SimpleNamespace(memory_limit=memory_limit)

    def set_logical_device_configuration(self, gpu, logical):
        if self.limits.get(gpu) != logical:
            self._change()
        self.limits[gpu] = logical

    def get_logical_device_configuration(self, gpu):
        return self.limits.get(gpu)

    def set_memory_growth(self, gpu, on):
        if gpu in self.limits:
            raise ValueError("Cannot set memory growth on device when virtual devices configured")
        if gpu in self.growing:
            return
        self._change()
        self.growing.add(gpu)

    def _change(self):
        if self.started:
            raise RuntimeError("Physical devices cannot be modified after being initialized")


def _plan(*gpus, explicit=True, limit=None):
    return DevicePlan(gpus=gpus, explicit=explicit, memory_limits=(limit,) * len(gpus))


def test_a_cpu_engine_uses_no_gpu_memory():
    config = _Config(2)
    assert configure_devices(_plan(), config).names == ("/CPU:0",)
    assert (config.visible, config.growing, config.limits) == ([], set(), {})


def test_gpus_that_are_not_used_are_left_alone():
    """TensorFlow counts anew what it is shown: of four GPUs the last is its second here."""
    config = _Config(4)
    placement = configure_devices(_plan(1, 3), config)
    assert (placement.device, placement.names) == ("gpu:1,gpu:3", ("/GPU:0", "/GPU:1"))
    assert config.visible == ["GPU 1", "GPU 3"]
    assert config.growing == {"GPU 1", "GPU 3"}


def test_a_limit_is_set_on_each_gpu_that_is_used():
    config = _Config(3)
    configure_devices(_plan(1, 2, limit=1000), config)
    assert {gpu: logical[0].memory_limit for gpu, logical in config.limits.items()} == {
        "GPU 1": 1000,
        "GPU 2": 1000,
    }
    assert not config.growing


def test_each_gpu_model_is_listed_once():
    assert configure_devices(_plan(0, 1), _Config(2)).models == ("NVIDIA L4",)
    assert configure_devices(_plan(0, 1), _Config(2, models=["T4", "L4"])).models == ("L4", "T4")


@pytest.mark.parametrize("plan", [_plan(), _plan(0), _plan(1), _plan(0, 1, explicit=False)])
def test_after_the_start_a_compatible_plan_is_accepted(plan):
    """All GPUs are visible then, and keep their numbers."""
    placement = configure_devices(plan, _Config(2, started=True))
    assert placement.names == (tuple(f"/GPU:{number}" for number in plan.gpus) or ("/CPU:0",))


def test_before_the_start_a_second_plan_replaces_the_first():
    config = _Config(2)
    configure_devices(_plan(0), config)
    assert configure_devices(_plan(0, 1), config).names == ("/GPU:0", "/GPU:1")


def test_after_the_start_only_the_same_limit_is_accepted():
    config = _Config(1)
    configure_devices(_plan(0, limit=1000), config)
    config.started = True
    configure_devices(_plan(0, limit=1000), config)
    configure_devices(_plan(0), config)
    with pytest.raises(EngineError, match="already runs on gpu:0 in this process with another limit"):
        configure_devices(_plan(0, limit=2000), config)


def test_a_limit_after_a_start_without_one_is_refused():
    config = _Config(1)
    configure_devices(_plan(0), config)
    config.started = True
    with pytest.raises(EngineError, match="already runs on gpu:0 in this process with another limit"):
        configure_devices(_plan(0, limit=2000), config)


@pytest.mark.parametrize("explicit", [True, False])
def test_gpus_that_stay_hidden_are_an_error(explicit):
    config = _Config(2)
    configure_devices(_plan(), config)
    config.started = True
    with pytest.raises(
        EngineError,
        match=r"--device gpu:0,gpu:1: .* has already hidden gpu:0, gpu:1\. Create the GPU engine first",
    ):
        configure_devices(_plan(0, 1, explicit=explicit), config)


def test_auto_uses_the_gpus_that_are_left():
    config = _Config(3)
    configure_devices(_plan(1), config)
    config.started = True
    placement = configure_devices(_plan(0, 1, 2, explicit=False), config)
    assert (placement.device, placement.names) == ("gpu:1", ("/GPU:0",))
    with pytest.raises(EngineError, match=r"has already hidden gpu:2\."):
        configure_devices(_plan(1, 2), config)


def test_a_machine_without_gpus_uses_the_cpu():
    assert configure_devices(_plan(), _Config(0)).device == "cpu"


def test_resolve_device_uses_the_gpus_of_the_machine(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resolve_device("auto", config=_Config(2)).device == "gpu:0,gpu:1"
    assert resolve_device("auto", config=_Config(2), max_gpus=1).names == ("/GPU:0",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(
        EngineError, match=r"gpu:0 here \(CUDA_VISIBLE_DEVICES is '5'\)\. Type --device gpu:0"
    ):
        resolve_device("gpu:1", config=_Config(1))
