"""Choice of the engine and detection of fast formats, on simulated machines."""

import pytest

from featurize.engines import select
from featurize.engines.select import choose_engine, cpu_formats, fast_precisions, gpu_formats
from featurize.errors import ConfigError, EngineError


def _choose(
    engine="auto", *, device="auto", precision="float32", cpu=(), has_openvino=True, driver=0, usable=0
):
    imported = []

    def n_tensorflow_gpus():
        imported.append(True)
        return usable

    chosen = choose_engine(
        engine,
        device=device,
        precision=precision,
        cpu_precisions=cpu,
        has_openvino=has_openvino,
        n_driver_gpus=driver,
        n_tensorflow_gpus=n_tensorflow_gpus,
    )
    return chosen, bool(imported)


@pytest.mark.parametrize(
    ("case", "expected", "imports_tensorflow"),
    [
        # (request and machine, engine, whether TensorFlow must be imported for the choice)
        ({}, "openvino", False),
        ({"device": "cpu"}, "openvino", False),
        ({"device": "cpu", "driver": 1, "usable": 1}, "openvino", False),
        ({"driver": 1, "usable": 1}, "tensorflow", True),
        ({"driver": 2, "usable": 0}, "openvino", True),  # a GPU, but no CUDA libraries for TensorFlow
        ({"device": "gpu:0"}, "tensorflow", False),  # its error names the available devices
        ({"device": "gpu"}, "tensorflow", False),
        ({"device": "gpu:0,gpu:1", "driver": 2}, "tensorflow", False),
        ({"device": "toaster"}, "tensorflow", False),  # its error lists the valid devices
        ({"has_openvino": False}, "tensorflow", False),
        ({"precision": "bfloat16", "cpu": ("bfloat16",)}, "openvino", False),
        ({"precision": "bfloat16"}, "tensorflow", False),  # supports it on every CPU
        ({"precision": "float16", "cpu": ("bfloat16",)}, "tensorflow", False),
        ({"engine": "tensorflow"}, "tensorflow", False),
        ({"engine": "tensorflow", "driver": 1, "usable": 1}, "tensorflow", False),
        ({"engine": "openvino", "driver": 1, "usable": 1}, "openvino", False),
        (
            {"engine": "openvino", "has_openvino": False},
            "openvino",
            False,
        ),  # its import reports that it is missing
        ({"engine": "openvino", "precision": "bfloat16"}, "openvino", False),  # reports what it supports
    ],
)
def test_the_engine_that_is_chosen(case, expected, imports_tensorflow):
    assert _choose(**case) == (expected, imports_tensorflow)


@pytest.mark.parametrize(
    ("case", "error", "text"),
    [
        (
            {"engine": "openvino", "device": "gpu:0"},
            EngineError,
            r"^--engine openvino --device gpu:0: OpenVINO runs on the CPU only\. Type --device cpu, or "
            r"--engine tensorflow$",
        ),
        (
            {"engine": "openvino", "precision": "float16"},
            EngineError,
            r"^--precision float16 needs a GPU, and --engine openvino runs on the CPU\. "
            r"Type --precision bfloat16 or float32$",
        ),
        (
            {"engine": "torch"},
            ConfigError,
            "^--engine torch: unknown. Choose one of: auto, tensorflow, openvino$",
        ),
        (
            {"precision": "int8"},
            ConfigError,
            "^--precision int8: unknown. Choose one of: float32, bfloat16, flo",
        ),
    ],
)
def test_invalid_requests(case, error, text):
    with pytest.raises(error, match=text):
        _choose(**case)


# --- formats --------------------------------------------------------------------------------------


def _cpuinfo(*flags):
    lines = [f"processor\t: {{}}\nvendor_id\t: AuthenticAMD\nmodel name\t: with avx512_bf16 in its name\n"
             f"flags\t\t: fpu vme {' '.join(flags)} xsaves\nbugs\t\t: amx_bf16_bug\n"]  # fmt: skip
    return "\n".join(line.format(n) for n in range(2) for line in lines)


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        (_cpuinfo("avx512_bf16"), ("bfloat16",)),  # Zen 4 and 5, Cooper Lake
        (_cpuinfo("avx512_bf16", "amx_bf16", "amx_tile"), ("bfloat16",)),  # Sapphire Rapids
        (_cpuinfo("amx_bf16"), ("bfloat16",)),
        (_cpuinfo("avx512f", "avx512_vnni"), ()),  # Cascade Lake: OpenVINO emulates there
        (_cpuinfo("avx2"), ()),
        (_cpuinfo("amx_int8"), ()),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", ()),  # ARM
        ("", ()),
    ],
)
def test_formats_of_a_cpu(text, formats):
    assert cpu_formats(text) == formats


@pytest.mark.parametrize(
    ("capability", "formats"),
    [((6, 1), ()), ((7, 0), ("float16",)), ((7, 5), ("float16",)), ((8, 0), ("float16", "bfloat16")),
     ((8, 9), ("float16", "bfloat16")), ((12, 0), ("float16", "bfloat16"))],
)  # fmt: skip
def test_formats_of_a_gpu(capability, formats):
    assert gpu_formats(capability) == formats


def test_formats_of_this_cpu_are_read_from_linux(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(select, "_CPUINFO", path)
    assert fast_precisions("openvino", "cpu") == ()  # not Linux
    path.write_text(_cpuinfo("avx512_bf16"))
    assert fast_precisions("openvino", "cpu") == ("bfloat16",)
    assert fast_precisions("tensorflow", "cpu") == ()  # slower there for a small network, as measured


@pytest.mark.parametrize(
    ("device", "formats"),
    [
        ("gpu:0", ("float16", "bfloat16")),
        ("gpu:1", ("float16",)),
        ("gpu:0,gpu:1", ("float16",)),
        ("gpu:2", ()),
    ],
)
def test_several_gpus_have_the_formats_of_the_oldest(monkeypatch, device, formats):
    cards = tuple(select.Gpu(capability=capability, memory=1) for capability in ((9, 0), (7, 5)))
    monkeypatch.setattr(select, "gpus", lambda: cards)
    assert fast_precisions("tensorflow", device) == formats
