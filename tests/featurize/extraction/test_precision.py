"""A fast format is chosen only if its features agree with float32, and the choice is kept.

The stand-in's features in a fast format are those in float32 plus a constant, so that every cosine can be
computed from the painted colours.
"""

import json
import math
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize.config import config_digest
from featurize.engines import factory
from featurize.errors import DatasetError, EngineError, StoreError
from featurize.extraction.execution import ExecutionOptions
from featurize.extraction.precision import PrecisionSample, sample_candidates, smallest_cosine
from featurize.images.augment import ViewRanges
from featurize.images.dataset import load_dataset
from featurize.images.pool import Decoder
from featurize.images.render import RenderSettings
from featurize.store.columns import LevelColumns

GOOD, BAD = 0.05, 1.0  # added to every feature; the darkest picture is (0, 0, 7)


def extract(root, tmp_path, **options):
    options = {"backbones": ["mean"], "weights": "random", "views": 0, "out": tmp_path / "out", **options}
    return featurize.extract(root, **options)


def cosine_of_the_darkest(added):
    """Between (0, 0, 7) and (a, a, 7 + a)."""
    return (7 + added) / math.sqrt(2 * added**2 + (7 + added) ** 2)


def facts(path):
    with h5py.File(path) as file:
        config, created = (json.loads(file.attrs[name]) for name in ("config", "created_with"))
        return config, created["precision"], file["features/plain"][:]


def colours(root):
    """Return the painted colours, in the order of the contents' hashes."""
    with featurize.open_store(root) as store:
        data = store.created_with["data"]
        images = store.images
        found = [Image.open(f"{data}/{path}").getpixel((0, 0)) for path in images.path]
        return np.array([found[list(images.content).index(row)] for row in range(store.n_content)])


def test_a_format_that_agrees_is_chosen_and_the_store_records_why(stand_in, portfolio, tmp_path):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": GOOD}
    (result,) = extract(portfolio, tmp_path)
    assert result.path.name == "mean+random.h5"
    config, check, plain = facts(result.path)
    assert (config["precision"], config["engine"]) == ("bfloat16", "stand-in")
    np.testing.assert_allclose(plain, colours(result.path) + GOOD, rtol=1e-6)
    speedup = check.pop("speedup")
    cosine = check.pop("cosine")
    assert check == {"asked": "auto", "tried": "bfloat16", "images": 21}
    assert cosine == pytest.approx(cosine_of_the_darkest(GOOD), abs=1e-7)
    assert speedup > 0
    assert result.precision == {**check, "cosine": cosine, "speedup": speedup}
    assert [engine.precision for engine in stand_in.built] == ["float32", "bfloat16"]  # and no third one


def test_a_format_that_changes_features_is_rejected_and_the_store_records_why(stand_in, portfolio, tmp_path):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": BAD}
    (result,) = extract(portfolio, tmp_path)
    config, check, plain = facts(result.path)
    assert config["precision"] == "float32"
    assert "engine" not in config
    np.testing.assert_allclose(plain, colours(result.path), rtol=1e-6)
    assert check["tried"] == "bfloat16"
    assert check["cosine"] == pytest.approx(cosine_of_the_darkest(BAD), abs=1e-7)
    assert len(stand_in.built) == 2


def test_hardware_without_a_fast_format_tries_nothing(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path)
    config, check, _ = facts(result.path)
    assert config["precision"] == "float32"
    assert check == {"asked": "auto", "tried": None, "cosine": None, "images": None, "speedup": None}
    assert stand_in.n_seen == 21
    assert len(stand_in.built) == 1


def test_the_first_format_that_agrees_is_chosen(stand_in, portfolio, tmp_path):
    stand_in.fast = ("float16", "bfloat16")
    stand_in.errors = {"float16": float("inf"), "bfloat16": GOOD}
    (result,) = extract(portfolio, tmp_path)
    assert (result.config["precision"], result.precision["tried"]) == ("bfloat16", "bfloat16")
    stand_in.errors = {"float16": GOOD, "bfloat16": 0}
    (result,) = extract(portfolio, tmp_path, out=tmp_path / "first")
    assert (result.config["precision"], result.precision["tried"]) == ("float16", "float16")
    stand_in.errors = {"float16": float("nan"), "bfloat16": BAD}
    (result,) = extract(portfolio, tmp_path, out=tmp_path / "none")
    assert (result.config["precision"], result.precision["tried"]) == ("float32", "bfloat16")
    stand_in.errors = {"float16": float("nan"), "bfloat16": float("nan")}
    (result,) = extract(portfolio, tmp_path, out=tmp_path / "no numbers")
    assert (result.config["precision"], result.precision["cosine"]) == ("float32", -1)


def test_later_runs_keep_the_choice(stand_in, portfolio, tmp_path):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": GOOD}
    (first,) = extract(portfolio, tmp_path)
    Image.new("RGB", (40, 40), (200, 100, 50)).save(portfolio / "train/award_train/new.png")
    stand_in.fast = ()  # another machine, say
    stand_in.built.clear()
    (later,) = extract(portfolio, tmp_path)
    assert later.config == first.config
    assert later.precision == first.precision
    assert (later.state, later.n_forward, stand_in.n_seen) == ("updated", 1, 1)
    (engine,) = stand_in.built
    assert (engine.precision, engine.options["engine"]) == ("bfloat16", "stand-in")
    with featurize.open_store(later.path) as store:
        row = store.images.content[store.images.path.index("train/award_train/new.png")]
        np.testing.assert_allclose(store.plain([row]), [[200 + GOOD, 100 + GOOD, 50 + GOOD]], rtol=1e-6)


def test_a_resumed_run_keeps_the_choice(stand_in, portfolio, tmp_path, monkeypatch):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": GOOD}

    def stop(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("featurize.extraction.assemble.assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(portfolio, tmp_path)
    stand_in.errors = {"bfloat16": BAD}
    stand_in.built.clear()
    (result,) = extract(portfolio, tmp_path)
    assert (result.n_resumed, stand_in.built) == (21, [])
    assert result.config["precision"] == "bfloat16"
    assert result.precision["cosine"] == pytest.approx(cosine_of_the_darkest(GOOD), abs=1e-7)


def test_another_precision_than_the_chosen_one_is_refused_by_name(stand_in, portfolio, tmp_path):
    stand_in.fast = ("bfloat16",)
    (chosen,) = extract(portfolio, tmp_path)
    with pytest.raises(StoreError, match=r'precision: stored "bfloat16", requested "float32".*--out FOLDER'):
        extract(portfolio, tmp_path, precision="float32")
    with pytest.raises(StoreError, match=r'engine: stored "stand-in", requested "openvino"'):
        extract(portfolio, tmp_path, engine="openvino")
    (forced,) = extract(portfolio, tmp_path, precision="bfloat16")
    assert forced.path.name == "mean+random+bfloat16.h5"
    assert forced.config == chosen.config
    assert forced.precision == {
        "asked": "bfloat16", "tried": None, "cosine": None, "images": None, "speedup": None,
    }  # fmt: skip


def test_an_older_store_is_read_and_extended_under_its_own_digest(stand_in, portfolio, tmp_path):
    """Created by version 0.1.0: no precision check, and in bfloat16 no engine."""
    for precision in ("float32", "bfloat16"):
        (result,) = extract(portfolio, tmp_path, precision=precision)
        with h5py.File(result.path, "r+") as file:
            config, created = (json.loads(file.attrs[name]) for name in ("config", "created_with"))
            config.pop("engine", None)
            del created["precision"]
            digest = config_digest(config)
            for name, value in (("config", config), ("created_with", created)):
                file.attrs[name] = json.dumps(value)
            file.attrs["config_digest"] = digest
        Image.new("RGB", (40, 40), (9, 9, len(precision))).save(portfolio / "test/low_test/new.png")
        (later,) = extract(portfolio, tmp_path, precision=precision)
        assert (later.state, later.n_forward, later.precision) == ("updated", 1, None)
        assert stand_in.built[-1].options["engine"] == ("auto" if precision == "float32" else "tensorflow")
        with featurize.open_store(later.path) as store:
            assert (store.config, store.config_digest) == (config, digest)


def test_a_store_in_an_unsupported_format_is_not_extended_in_another(stand_in, portfolio, tmp_path):
    stand_in.fast = ("bfloat16",)
    extract(portfolio, tmp_path, precision="bfloat16", engine="openvino")
    stand_in.fast = ()
    Image.new("RGB", (40, 40), (200, 100, 50)).save(portfolio / "train/award_train/new.png")
    with pytest.raises(EngineError, match="this processor has no instructions for it"):
        extract(portfolio, tmp_path, precision="bfloat16")


@pytest.mark.parametrize("n", [1, 3])
def test_a_few_images_are_enough(stand_in, portfolio, tmp_path, n):
    (tmp_path / "few" / "award").mkdir(parents=True)
    for number, path in enumerate(sorted(portfolio.rglob("*.png"))[:n]):
        shutil.copy(path, tmp_path / "few" / "award" / f"{number}.png")
    stand_in.fast = ("bfloat16",)
    (result,) = extract(tmp_path / "few", tmp_path)
    assert (result.config["precision"], result.precision["images"]) == ("bfloat16", n)


def test_no_usable_image_is_still_an_error(stand_in, tmp_path):
    stand_in.fast = ("bfloat16",)
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.jpg").write_text("no")
    with pytest.raises(DatasetError, match="none of its 1 files can be used: not an image"):
        extract(tmp_path / "data", tmp_path)


def test_a_format_that_the_engine_rejects_is_passed_over(stand_in, portfolio, tmp_path, monkeypatch):
    create = factory.create_engine

    def refusing(*given, precision="float32", **options):
        if precision == "bfloat16":
            raise EngineError("not here")
        return create(*given, precision=precision, **options)

    monkeypatch.setattr(factory, "create_engine", refusing)
    stand_in.fast = ("bfloat16",)
    (result,) = extract(portfolio, tmp_path)
    assert (result.config["precision"], result.precision["tried"]) == ("float32", None)


def test_backbones_of_one_size_share_the_decoded_sample(stand_in, portfolio, tmp_path, alter_decoded):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": GOOD}
    decoded = []
    alter_decoded(lambda one: decoded.append(one.request.path) or one)
    first, second = extract(portfolio, tmp_path, backbones=["mean", "mean_too"])
    assert len(decoded) == 21 + 21
    assert {first.precision["tried"], second.precision["tried"]} == {"bfloat16"}
    assert second.precision["cosine"] > first.precision["cosine"]  # its features are 1000 larger


@pytest.fixture
def many(tmp_path):
    """Two hundred files: splits and classes of 96, 32, 48 and 24; every fifth of the last is no picture."""
    number = 0
    for folder, n in (("train/a", 96), ("train/b", 32), ("test/a", 48), ("test/b", 24)):
        (tmp_path / "many" / folder).mkdir(parents=True)
        for i in range(n):
            path = tmp_path / "many" / folder / f"{i:03}.ppm"
            header = b"P6 1 1 255\n" if folder != "test/b" or i % 5 else b"P0"
            path.write_bytes(header + number.to_bytes(3, "big"))
            number += 1
    return load_dataset(tmp_path / "many")


def sample_of(dataset):
    rendering = RenderSettings(
        size=4, resize="squash", resample="bicubic", max_pixels=9, ranges=ViewRanges(), seed=0
    )
    execution = ExecutionOptions(
        engine="auto", device="auto", gpu_memory=None, batch_size="auto", strict=False,
        report=lambda *_: None, note=lambda _: None, stored_options={},
    )  # fmt: skip
    with Decoder(rendering, most_views=1, workers=2) as decoder:
        return PrecisionSample(sample_candidates(dataset), decoder, execution).images


def test_the_sample_is_spread_over_splits_and_classes_and_always_the_same(many):
    images = sample_of(many)
    assert images.shape == (32, 4, 4, 3)
    numbers = [int.from_bytes(bytes(image[0, 0].tolist()), "big") for image in images]
    assert len(set(numbers)) == 32
    kinds = Counter(int(np.searchsorted([96, 128, 176, 200], number, side="right")) for number in numbers)
    # Of 32 in 200 that is 15.4 of 96, 5.1 of 32, 7.7 of 48, 3.8 of 24, a fifth of them no pictures: replaced.
    for kind, share in enumerate((15.4, 5.1, 7.7, 3.8)):
        assert abs(kinds[kind] - share) <= 2
    np.testing.assert_array_equal(sample_of(many), images)


def test_the_smallest_cosine_is_over_images_and_levels():
    columns = LevelColumns(names=("1/2", "final"), ends=(2, 4))
    expected = np.array([[1, 0, 300, 400], [3, 4, 0, 0]], np.float32)
    assert smallest_cosine(expected, expected, columns) == pytest.approx(1)
    changed = expected.copy()
    changed[0, :2] = 4, 3  # 4/5 in the small level; over all columns together it would be 0.99996
    assert smallest_cosine(changed, expected, columns) == pytest.approx(0.8)
    zero = expected.copy()
    zero[1, :2] = 0  # zeros where there was something
    assert smallest_cosine(zero, expected, columns) == 0
    for bad in (np.nan, np.inf):
        none = expected.copy()
        none[1, 3] = bad
        assert smallest_cosine(none, expected, columns) == -1
        assert smallest_cosine(expected, none, columns) == -1
        assert smallest_cosine(none, none, columns) == -1
