"""Features of single files: equal to those of the store under the same config."""

import shutil

import numpy as np
import pytest

import featurize
from featurize.errors import EngineError, WeightsError
from featurize.extraction.inference import FeatureReader, image_features


@pytest.fixture
def store(stand_in, portfolio, tmp_path):
    (result,) = featurize.extract(
        portfolio, backbones=["mean"], weights="random", views=0, out=tmp_path / "out"
    )
    with featurize.open_store(result.path) as store:
        yield store


def test_features_equal_those_of_the_store(store, portfolio):
    paths = [portfolio / path for path in store.images.path]
    found = image_features(paths[::-1], store.config)
    np.testing.assert_array_equal(found.index, np.arange(len(paths)))
    np.testing.assert_array_equal(found.features, store.plain()[store.images.content][::-1])
    assert found.problems == {}


def test_bad_files_have_no_row_and_shift_no_other(store, portfolio, tmp_path):
    good = [portfolio / path for path in store.images.path[:5]]
    bad = tmp_path / "bad.jpg"
    bad.write_text("no")
    found = image_features([bad, *good, tmp_path / "missing.jpg"], store.config)
    np.testing.assert_array_equal(found.index, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.features, store.plain()[store.images.content[:5]])
    assert found.problems[0].startswith("not an image")
    assert found.problems[6].startswith("unreadable")


def test_nothing_readable_is_an_empty_table(store, tmp_path):
    found = image_features([tmp_path / "missing.jpg"], store.config)
    assert found.features.shape == (0, 3)


def test_progress_reaches_the_end(store, portfolio):
    seen = []
    paths = [portfolio / path for path in store.images.path]
    image_features(paths, store.config, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(paths), len(paths))


def test_other_weights_are_refused(store, portfolio, tmp_path):
    config = {**store.config, "weights": {"kind": "random", "sha256": "0" * 64, "seed": 0}}
    with pytest.raises(WeightsError, match="but the features were computed with 000000000000"):
        image_features([portfolio / store.images.path[0]], config)
    config = {**store.config, "weights": {"kind": "file", "sha256": "0" * 64, "seed": None}}
    with pytest.raises(WeightsError, match=r"that is not included.*--weights FILE"):
        image_features([portfolio / store.images.path[0]], config)
    shutil.copy(portfolio / store.images.path[0], tmp_path / "any.h5")
    with pytest.raises(WeightsError, match="--weights FILE"):
        image_features([portfolio / store.images.path[0]], config, weights=tmp_path / "any.h5")


@pytest.fixture
def fast(stand_in, portfolio, tmp_path):
    """A store with levels in bfloat16."""
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": 0.01}
    (result,) = featurize.extract(
        portfolio, backbones=["mean"], weights="random", views=0, out=tmp_path / "fast", levels=True
    )
    with featurize.open_store(result.path) as store:
        yield store


def test_precision_engine_and_levels_are_those_of_the_store(fast, stand_in, portfolio):
    stand_in.fast = ()
    stand_in.built.clear()
    paths = [portfolio / path for path in fast.images.path]
    found = image_features(paths, fast.config)
    assert found.features.shape == (21, 6)
    np.testing.assert_array_equal(found.features, fast.plain()[fast.images.content])
    (engine,) = stand_in.built
    assert (engine.precision, engine.options["engine"]) == ("bfloat16", "stand-in")


def test_another_precision_takes_any_engine(fast, stand_in, portfolio):
    stand_in.built.clear()
    image_features([portfolio / fast.images.path[0]], fast.config, precision="float32")
    (engine,) = stand_in.built
    assert (engine.precision, engine.options["engine"]) == ("float32", "auto")


def test_a_precision_that_this_processor_does_not_support_is_refused(fast, stand_in, portfolio):
    """Otherwise OpenVINO would silently compute in float32."""
    config = {**fast.config, "engine": "openvino"}
    paths = [portfolio / fast.images.path[0]]
    assert len(image_features(paths, config).features) == 1
    stand_in.fast = ()
    with pytest.raises(EngineError, match=r"this processor has no instructions for it.*--precision float32"):
        image_features(paths, config)


def test_a_reader_keeps_network_and_processes_between_calls(
    own_process, store, stand_in, portfolio, tmp_path
):
    paths = [portfolio / path for path in store.images.path]
    stand_in.built.clear()
    with FeatureReader(store.config, workers=1) as reader:
        assert reader.features([]).features.shape == (0, 0)
        assert stand_in.built == []  # nothing to read needs no network
        reader.prepare(1)
        (worker,) = reader._decoder._pool._workers
        first = reader.features(paths[:3])
        bad = reader.features([tmp_path / "missing.jpg"])
        second = reader.features(paths[3:])
        assert reader._decoder._pool._workers == [worker]
    assert len(stand_in.built) == 1
    assert bad.features.shape == (0, 3)
    assert bad.problems[0].startswith("unreadable")
    rows = store.plain()[store.images.content]
    np.testing.assert_array_equal(np.concatenate([first.features, second.features]), rows)
    assert worker.process.poll() is not None  # closed with the reader
