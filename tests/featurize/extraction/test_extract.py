"""Extraction with a stand-in backbone: every feature is the painted colour."""

import hashlib
import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize.engines import factory
from featurize.errors import ConfigError, DatasetError, EngineError, ImageError, StoreError, WeightsError
from featurize.images import pool
from featurize.store import parts


def extract(root, tmp_path, **options):
    options = {"backbones": ["mean"], "weights": "random", "views": 2, "out": tmp_path / "out", **options}
    return featurize.extract(root, **options)


def paint(path, colour, size=(40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")
    return path


def expected_means(root, images):
    """Colour of each file, read by Pillow: one colour a file, so that its mean is its first pixel."""
    return np.array([Image.open(root / path).getpixel((0, 0)) for path in images.path], np.float32)


def test_features_names_labels_and_splits_agree(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path)
    assert result.path == tmp_path / "out" / "mean+random.h5"
    assert result.state == "created"
    assert result.classes == ("award", "low", "middle")
    assert result.split_counts["train"] == {"award": 5, "low": 5, "middle": 5}
    with featurize.open_store(result.path) as store:
        images = store.images
        assert images.path == sorted(images.path)
        np.testing.assert_allclose(store.plain()[images.content], expected_means(portfolio, images))
        for path, label, split, sha256 in zip(
            images.path, images.label, images.split, images.sha256, strict=True
        ):
            assert path.split("/")[0] == split
            assert path.split("/")[1] == f"{store.classes[label]}_{split}"
            assert hashlib.sha256((portfolio / path).read_bytes()).hexdigest() == sha256


def test_only_training_images_get_views(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path)
    assert stand_in.n_seen == result.n_forward == 21 + 15 * 2
    with featurize.open_store(result.path) as store:
        images = store.images
        training = {images.content[i] for i in range(len(images)) if images.split[i] == "train"}
        assert set(store.augmented_content) == training
        plain = store.plain(sorted(training))  # one colour: a view of it is the same colour
        np.testing.assert_allclose(store.augmented(), np.repeat(plain[:, None], 2, axis=1))


def test_views_for_all(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path, views_for="all")
    with featurize.open_store(result.path) as store:
        assert store.n_augmented == store.n_content == 21
    assert result.n_forward == 21 * 3


def test_a_second_run_decodes_nothing(stand_in, portfolio, tmp_path, monkeypatch):
    (first,) = extract(portfolio, tmp_path)
    before = first.path.read_bytes()
    monkeypatch.setattr(pool, "Worker", None)  # any decode would fail
    (second,) = extract(portfolio, tmp_path)
    assert second.state == "up to date"
    assert (second.n_decoded, second.n_forward) == (0, 0)
    assert first.path.read_bytes() == before


def test_fewer_views_use_what_is_there(stand_in, portfolio, tmp_path):
    extract(portfolio, tmp_path, views=3)
    (result,) = extract(portfolio, tmp_path, views=1)
    assert (result.state, result.n_views) == ("up to date", 3)


@pytest.mark.parametrize(
    ("change", "n_forward"),
    [
        (lambda root: paint(root / "train/award_train/new.png", (1, 2, 3)), 3),
        (lambda root: paint(root / "test/award_test/new.png", (1, 2, 3)), 1),
        (lambda root: paint(root / "train/low_train/0.png", (250, 2, 3)), 3),
        (lambda root: (root / "train/low_train/0.png").unlink(), 0),
        (lambda root: (root / "train/low_train/0.png").rename(root / "train/award_train/moved.png"), 0),
        (lambda root: shutil.copy(root / "train/low_train/0.png", root / "train/low_train/copy.png"), 0),
        (lambda root: (root / "test/low_test/0.png").rename(root / "train/low_train/was_test.png"), 2),
    ],
    ids=["add to train", "add to test", "change", "remove", "relabel", "duplicate", "test to train"],
)
def test_a_change_costs_only_what_is_new(stand_in, portfolio, tmp_path, change, n_forward):
    extract(portfolio, tmp_path)
    change(portfolio)
    stand_in.built.clear()
    (result,) = extract(portfolio, tmp_path)
    assert result.state == "updated"
    assert result.n_forward == stand_in.n_seen == n_forward
    (fresh,) = extract(portfolio, tmp_path, out=tmp_path / "fresh")
    assert_same_store(result.path, fresh.path)


def test_more_views_compute_only_the_new_ones(stand_in, portfolio, tmp_path):
    extract(portfolio, tmp_path, views=1)
    (result,) = extract(portfolio, tmp_path, views=4)
    assert result.n_forward == 15 * 3
    (fresh,) = extract(portfolio, tmp_path, views=4, out=tmp_path / "fresh")
    assert_same_store(result.path, fresh.path)


def assert_same_store(path, other):
    with featurize.open_store(path) as a, featurize.open_store(other) as b:
        assert a.images.same_as(b.images)
        assert a.content.sha256 == b.content.sha256
        for name in ("width", "height", "phash", "thumbnail", "crc32"):
            np.testing.assert_array_equal(getattr(a.content, name), getattr(b.content, name))
        np.testing.assert_array_equal(a.plain(), b.plain())
        np.testing.assert_array_equal(a.augmented_content, b.augmented_content)
        np.testing.assert_array_equal(a.augmented(), b.augmented())


def test_the_store_does_not_depend_on_batch_size_or_workers(
    stand_in, own_process, portfolio, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    for number in range(5):  # noise, so that a view differs from its picture
        pixels = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(portfolio / "train/low_train" / f"noise{number}.png")
    (one,) = extract(portfolio, tmp_path, workers=1)
    create = factory.create_engine

    def other_batches(*args, **options):
        engine = create(*args, **options)
        engine.batch_size = 7
        return engine

    monkeypatch.setattr(factory, "create_engine", other_batches)
    (two,) = extract(portfolio, tmp_path, workers=3, out=tmp_path / "two")
    assert_same_store(one.path, two.path)


def test_bad_files_are_skipped_by_name_and_good_ones_are_stored(stand_in, portfolio, tmp_path):
    folder = portfolio / "train" / "award_train"
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not a picture")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (result,) = extract(portfolio, tmp_path)
    reasons = {file.path: file.reason for file in result.skipped}
    assert {(file.split, file.class_name) for file in result.skipped} == {("train", "award")}
    assert sorted(file.kind for file in result.skipped) == ["empty file", "not an image", "truncated"]
    assert reasons["train/award_train/empty.jpg"].startswith("empty file")
    assert reasons["train/award_train/text.jpg"].startswith("not an image")
    assert reasons["train/award_train/0.png"].startswith("truncated")
    assert len(reasons) == 3
    with featurize.open_store(result.path) as store:
        images = store.images
        kept = [i for i in range(len(images)) if not images.skipped[i]]
        skipped = [i for i in range(len(images)) if images.skipped[i]]
        assert all(images.content[i] == -1 and images.sha256[i] for i in skipped)
        means = np.array([Image.open(portfolio / images.path[i]).getpixel((0, 0)) for i in kept], np.float32)
        np.testing.assert_allclose(store.plain()[images.content[kept]], means)
    (again,) = extract(portfolio, tmp_path)
    assert (again.state, again.n_decoded) == ("up to date", 0)
    with pytest.raises(ImageError, match=r"text\.jpg|empty\.jpg|0\.png"):
        extract(portfolio, tmp_path, strict=True)


def test_no_usable_file(stand_in, tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.jpg").write_text("no")
    with pytest.raises(DatasetError, match="none of its 1 files can be used: not an image"):
        extract(tmp_path / "data", tmp_path)
    assert not list((tmp_path / "out").glob("*.h5"))


def test_two_backbones_share_one_decode(stand_in, portfolio, tmp_path, alter_decoded):
    decoded = []
    alter_decoded(lambda one: decoded.append(one.request.path) or one)
    first, second = extract(portfolio, tmp_path, backbones=["mean", "mean_too"])
    assert len(decoded) == 21
    with featurize.open_store(first.path) as a, featurize.open_store(second.path) as b:
        np.testing.assert_allclose(b.plain(), a.plain() + 1000)


def test_another_config_at_the_same_path_is_refused_by_name(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path)
    result.path.rename(result.path.with_name("mean+random+rescale.h5"))
    with pytest.raises(StoreError, match=r'preprocess: stored "native", requested "rescale".*--out FOLDER'):
        extract(portfolio, tmp_path, preprocess="rescale")


def test_a_config_that_is_not_the_default_has_its_own_file(stand_in, portfolio, tmp_path):
    (plain,) = extract(portfolio, tmp_path)
    (other,) = extract(portfolio, tmp_path, preprocess="rescale", input_size=48, resize="crop", seed=3)
    assert other.path.name.startswith("mean+random3+rescale+48px+crop+views-")
    assert plain.path.exists()


def test_featurewise_statistics_are_those_of_the_training_pixels_and_are_kept(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path, preprocess="featurewise")
    training = sorted((portfolio / "train").rglob("*.png"))
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in training]) / 255
    statistics = result.config["statistics"]
    np.testing.assert_allclose(statistics["mean"], pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics["std"], pixels.std(axis=0), rtol=1e-6, atol=1e-9)
    paint(portfolio / "train/award_train/new.png", (255, 255, 255))
    (later,) = extract(portfolio, tmp_path, preprocess="featurewise")
    assert later.config == result.config
    assert later.n_forward == 3


def test_another_data_set_at_the_same_path_is_refused(stand_in, portfolio, tmp_path):
    extract(portfolio, tmp_path)
    for number in range(12):
        paint(tmp_path / "other" / "a" / f"{number}.png", (number, 0, 200))
    with pytest.raises(StoreError, match=r"only 0 of its 21 images .*other.*task.*--replace"):
        extract(tmp_path / "other", tmp_path)
    (result,) = extract(tmp_path / "other", tmp_path, replace=True)
    assert (result.state, result.n_content) == ("updated", 12)


def test_order_is_kept_by_later_runs(stand_in, portfolio, tmp_path):
    (first,) = extract(portfolio, tmp_path)
    assert first.suggested_order == ("low", "middle", "award")
    (ordered,) = extract(portfolio, tmp_path, order=["low", "middle", "award"])
    assert (ordered.state, ordered.n_forward, ordered.ordered) == ("updated", 0, True)
    (later,) = extract(portfolio, tmp_path)
    assert (later.state, later.classes) == ("up to date", ("low", "middle", "award"))
    with featurize.open_store(later.path) as store:
        images = store.images
        named = [store.classes[label] for label in images.label]
        assert all(name in path for name, path in zip(named, images.path, strict=True))


def test_ungraded_images_have_features_and_no_label(stand_in, portfolio, tmp_path):
    paint(portfolio / "new" / "x.png", (5, 6, 7))
    (result,) = extract(portfolio, tmp_path)
    assert result.split_counts["new"] == {"": 1}
    with featurize.open_store(result.path) as store:
        row = store.images.path.index("new/x.png")
        assert store.images.label[row] == -1
        np.testing.assert_allclose(store.plain([store.images.content[row]]), [[5, 6, 7]])


def test_a_folder_of_images_only(stand_in, tmp_path):
    paint(tmp_path / "flat" / "x.png", (5, 6, 7))
    (result,) = extract(tmp_path / "flat", tmp_path)
    assert result.classes == ()
    with featurize.open_store(result.path) as store:
        assert store.classes == ()
        assert store.images.split == ["new"]


def test_a_failure_in_the_network_leaves_the_old_store(stand_in, portfolio, tmp_path, monkeypatch):
    (result,) = extract(portfolio, tmp_path)
    before = result.path.read_bytes()
    paint(portfolio / "train/award_train/new.png", (1, 2, 3))

    def broken(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(factory, "create_engine", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        extract(portfolio, tmp_path)
    assert result.path.read_bytes() == before
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_one_string_is_one_backbone_and_orders_are_split_at_commas(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path, backbones="mean", order="low, middle,award")
    assert (result.backbone, result.classes, result.ordered) == ("mean", ("low", "middle", "award"), True)
    report = featurize.scan(portfolio, order="low,middle,award", workers=1)
    assert (report.classes, report.ordered) == (("low", "middle", "award"), True)
    with pytest.raises(ConfigError, match="mean,mean_too"):  # not two names
        extract(portfolio, tmp_path, backbones="mean,mean_too")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"backbones": []}, ConfigError, "featurize backbones"),
        ({"backbones": ["vgg61"]}, ConfigError, "vgg16"),
        ({"views": -1}, ConfigError, "--views -1: expected 0 or more"),
        ({"views_for": "some"}, ConfigError, "train, all"),
        ({"resize": "stretch"}, ConfigError, "squash, crop, pad"),
        ({"resample": "best"}, ConfigError, "nearest, bilinear"),
        ({"input_size": 0}, ConfigError, "--input-size 0: expected 1 or more"),
        ({"workers": 0}, ConfigError, "--workers 0"),
        ({"preprocess": "caffe"}, ConfigError, "native, rescale, featurewise"),
        ({"backbones": ["mean", "mean_too"], "weights": "x.h5"}, ConfigError, "extract them one by one"),
        ({"weights": "x.h5"}, WeightsError, "x.h5: no such file"),
    ],
)
def test_invalid_options(stand_in, portfolio, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        extract(portfolio, tmp_path, **options)


def test_a_file_that_timed_out_is_tried_again(stand_in, portfolio, tmp_path, time_out):
    time_out("low_train/3.png")
    (first,) = extract(portfolio, tmp_path)
    assert [(file.path, file.kind) for file in first.skipped] == [("train/low_train/3.png", "timed out")]
    before = first.path.read_bytes()
    (in_vain,) = extract(portfolio, tmp_path)
    assert (in_vain.state, in_vain.n_decoded) == ("up to date", 1)
    assert first.path.read_bytes() == before
    time_out("no such file")
    (again,) = extract(portfolio, tmp_path)
    assert (again.state, again.n_decoded, again.n_forward, again.skipped) == ("updated", 1, 3, [])


def test_a_store_records_the_options_that_a_repair_needs(stand_in, portfolio, tmp_path):
    (result,) = extract(portfolio, tmp_path, entries="image", views_for="all", max_pixels=10_000_000)
    with featurize.open_store(result.path) as store:
        assert store.created_with["options"] == {
            "entries": "image",
            "views_for": "all",
            "max_pixels": 10_000_000,
        }


def test_resumed_work_is_counted(stand_in, portfolio, tmp_path, monkeypatch):
    create = factory.create_engine

    def failing(*args, **options):
        engine = create(*args, **options)
        forward = engine.__class__.__call__

        class Failing(engine.__class__):
            def __call__(self, images):
                if self.n_seen >= 30:
                    raise KeyboardInterrupt
                return forward(self, images)

        engine.__class__ = Failing
        return engine

    monkeypatch.setattr(factory, "create_engine", failing)
    with pytest.raises(KeyboardInterrupt):
        extract(portfolio, tmp_path)
    monkeypatch.setattr(factory, "create_engine", create)
    n_seen = stand_in.n_seen
    (result,) = extract(portfolio, tmp_path)
    assert 10 <= result.n_resumed < 21  # 30 views are those of ten contents or more
    assert n_seen == 32  # whole batches of four
    assert n_seen + result.n_forward <= 51 + 3 + 4  # one content was not complete, one batch was under way
    (fresh,) = extract(portfolio, tmp_path, out=tmp_path / "fresh")
    assert_same_store(result.path, fresh.path)


def test_features_that_are_not_finite_are_refused(stand_in, portfolio, tmp_path, monkeypatch):
    create = factory.create_engine

    def broken(*args, **options):
        engine = create(*args, **options)
        engine.offset = float("nan")
        return engine

    monkeypatch.setattr(factory, "create_engine", broken)
    with pytest.raises(EngineError, match=r"features that are not finite.*--precision float32"):
        extract(portfolio, tmp_path)
    assert not (tmp_path / "out" / "mean+random.h5").exists()


def test_a_feature_too_large_for_float16_is_refused(stand_in, portfolio, tmp_path, monkeypatch):
    create = factory.create_engine

    def large(*args, **options):
        engine = create(*args, **options)
        engine.offset = 1e5
        return engine

    monkeypatch.setattr(factory, "create_engine", large)
    with pytest.raises(EngineError, match="too large to store as float16"):
        extract(portfolio, tmp_path, store_dtype="float16")


def test_a_transient_read_error_loses_no_stored_feature(stand_in, portfolio, tmp_path, time_out):
    (result,) = extract(portfolio, tmp_path, views=1)
    before = result.path.read_bytes()
    time_out("award_train/0.png")
    with pytest.raises(StoreError, match=r"1 stored image could not be read again.*Run the same"):
        extract(portfolio, tmp_path, views=3)
    assert result.path.read_bytes() == before
    time_out("no such file")
    stand_in.built.clear()
    (again,) = extract(portfolio, tmp_path, views=3)
    assert stand_in.n_seen == again.n_forward == 2  # only the picture that failed: the rest had been kept
    (fresh,) = extract(portfolio, tmp_path, views=3, out=tmp_path / "fresh")
    assert_same_store(again.path, fresh.path)


def test_an_unfinished_run_is_not_discarded_for_another_data_set(stand_in, portfolio, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("featurize.extraction.assemble.assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(portfolio, tmp_path)
    for number in range(4):
        paint(tmp_path / "other" / "a" / f"{number}.png", (number, 0, 200))
    with pytest.raises(StoreError, match="unfinished run of 21 images, and only 0 of them"):
        extract(tmp_path / "other", tmp_path)
    stand_in.built.clear()
    (result,) = extract(portfolio, tmp_path)
    assert (result.n_resumed, result.n_forward) == (21, 0)


def test_a_new_class_needs_the_order_again(stand_in, portfolio, tmp_path):
    extract(portfolio, tmp_path, order=["low", "middle", "award"])
    paint(portfolio / "train" / "gold_train" / "0.png", (1, 2, 3))
    with pytest.raises(ConfigError, match="has the order low < middle < award, and the classes are now"):
        extract(portfolio, tmp_path)


def test_statistics_include_training_images_with_a_copy_in_another_split(stand_in, portfolio, tmp_path):
    (portfolio / "new").mkdir()
    shutil.copy(portfolio / "train/award_train/0.png", portfolio / "new" / "copy.png")
    (result,) = extract(portfolio, tmp_path, preprocess="featurewise")
    training = sorted((portfolio / "train").rglob("*.png"))
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in training]) / 255
    np.testing.assert_allclose(result.config["statistics"]["mean"], pixels.mean(axis=0), rtol=1e-9)


# levels


def noise(root):
    """Give each class an image whose halves differ, so that the levels of the stand-in differ."""
    rng = np.random.default_rng(0)
    for name in ("award", "low", "middle"):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / f"{name}_train" / "noise.png")


def test_levels_are_more_columns_and_say_which_is_which(stand_in, portfolio, tmp_path):
    noise(portfolio)
    (final,) = extract(portfolio, tmp_path)
    (result,) = extract(portfolio, tmp_path, levels=True)
    assert result.path.name == "mean+random+levels.h5"
    assert (result.n_features, result.level_names, result.level_ends) == (6, ("1/2", "final"), (3, 6))
    assert (final.n_features, final.level_names, final.level_ends) == (3, ("final",), (3,))
    with h5py.File(result.path) as file, h5py.File(final.path) as plain:
        assert json.loads(file.attrs["config"])["levels"] is True
        assert list(file["features/plain"].attrs["level_names"]) == ["1/2", "final"]
        assert list(file["features/plain"].attrs["level_ends"]) == [3, 6]
        assert file["features/augmented"].shape[1:] == (2, 6)
        np.testing.assert_array_equal(file["features/plain"][:, 3:], plain["features/plain"][:])
        np.testing.assert_array_equal(file["features/augmented"][..., 3:], plain["features/augmented"][:])
        assert np.abs(file["features/plain"][:, :3] - plain["features/plain"][:]).max() > 1
    with featurize.open_store(result.path) as store:
        row = store.images.content[store.images.path.index("train/award_train/noise.png")]
        pixels = np.asarray(Image.open(portfolio / "train/award_train/noise.png"), np.float64)
        np.testing.assert_allclose(store.plain([row])[0, :3], pixels[:, :16].mean(axis=(0, 1)), rtol=1e-6)


def test_levels_are_known_without_the_network(stand_in, portfolio, tmp_path, monkeypatch):
    """In a run that only assembles the parts of an earlier one, and in a run that only relabels."""

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("featurize.extraction.assemble.assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(portfolio, tmp_path, levels=True)
    stand_in.built.clear()
    (result,) = extract(portfolio, tmp_path, levels=True)
    assert (result.n_resumed, result.n_features, stand_in.built) == (21, 6, [])
    (portfolio / "train/low_train/0.png").rename(portfolio / "train/award_train/moved.png")
    (moved,) = extract(portfolio, tmp_path, levels=True)
    assert (moved.state, moved.level_ends, stand_in.built) == ("updated", (3, 6), [])
    with featurize.open_store(moved.path) as store:
        assert (store.level_names, store.level_ends) == (("1/2", "final"), (3, 6))
    (same,) = extract(portfolio, tmp_path, levels=True)
    assert (same.state, same.level_ends) == ("up to date", (3, 6))


def test_levels_of_another_version_are_not_mixed_in(stand_in, portfolio, tmp_path, monkeypatch):
    extract(portfolio, tmp_path, levels=True)
    create = factory.create_engine

    def other(*args, **options):
        engine = create(*args, **options)
        engine.level_names = ("1/4", "final")
        return engine

    monkeypatch.setattr(factory, "create_engine", other)
    paint(portfolio / "train/award_train/new.png", (1, 2, 3))
    with pytest.raises(StoreError, match=r"levels 1/2 up to 3, final up to 6, but .* computes 1/4 up to 3"):
        extract(portfolio, tmp_path, levels=True)


# the pipeline


@pytest.mark.parametrize("in_flight", [2, 3])
def test_batches_in_flight_change_nothing(stand_in, own_process, portfolio, tmp_path, in_flight):
    noise(portfolio)
    (one,) = extract(portfolio, tmp_path)
    stand_in.in_flight = in_flight
    (several,) = extract(portfolio, tmp_path, out=tmp_path / "several", backbones=["mean", "mean_too"])[:1]
    assert_same_store(one.path, several.path)
    assert all(engine.most_on_their_way == in_flight for engine in stand_in.built[1:])


def test_the_network_is_built_while_decode_processes_start(
    stand_in, own_process, portfolio, tmp_path, monkeypatch
):
    events = []
    create, worker = factory.create_engine, pool.Worker
    monkeypatch.setattr(factory, "create_engine", lambda *a, **o: events.append("engine") or create(*a, **o))
    monkeypatch.setattr(pool, "Worker", lambda *given: events.append("worker") or worker(*given))
    replies = pool.WorkerPool.replies
    monkeypatch.setattr(pool.WorkerPool, "replies", lambda *given: events.append("wait") or replies(*given))
    extract(portfolio, tmp_path, workers=2)
    assert events[:4] == ["worker", "worker", "engine", "wait"]


def test_notes_of_an_engine_are_shown(stand_in, portfolio, tmp_path, monkeypatch):
    create = factory.create_engine

    def with_note(*given, **options):
        engine = create(*given, **options)
        engine.notes = ("gpu:0: not enough memory for batches of 128 images; the batch size is 64",)
        return engine

    monkeypatch.setattr(factory, "create_engine", with_note)
    shown = []
    extract(portfolio, tmp_path, on_note=shown.append)
    assert shown == ["gpu:0: not enough memory for batches of 128 images; the batch size is 64"]


def test_no_network_is_built_for_a_few_files_of_which_none_can_be_used(stand_in, portfolio, tmp_path):
    extract(portfolio, tmp_path)
    (portfolio / "train/award_train/bad.png").write_text("no picture")
    stand_in.built.clear()
    (result,) = extract(portfolio, tmp_path)
    assert (result.state, result.n_decoded, stand_in.built) == ("updated", 1, [])


def test_a_part_that_cannot_be_written_stops_the_run(stand_in, portfolio, tmp_path, monkeypatch):
    """Although it is written by another thread; the parts before it are kept."""
    monkeypatch.setattr("featurize.extraction.fill.PART_CONTENTS", 4)
    write, written = parts.write_part, []

    def full(*args, **options):
        if len(written) == 2:
            raise StoreError("no space left")
        written.append(write(*args, **options))
        return written[-1]

    monkeypatch.setattr(parts, "write_part", full)
    with pytest.raises(StoreError, match="no space left"):
        extract(portfolio, tmp_path)
    assert sorted((tmp_path / "out" / "mean+random.h5.parts").glob("*.part")) == sorted(written)
    monkeypatch.setattr(parts, "write_part", write)
    (result,) = extract(portfolio, tmp_path)
    assert result.n_resumed == 8
    (fresh,) = extract(portfolio, tmp_path, out=tmp_path / "fresh")
    assert_same_store(result.path, fresh.path)
