"""The store format, read back with plain h5py: other programs can read what our writer wrote."""

import json
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, strategies as st

from featurize.cli.maintenance import store_facts
from featurize.errors import StoreError
from featurize.store.reader import ContentRow, ImageTable, open_store
from featurize.store.writer import StoreWriter, write_store

N_FEATURES = 5


def make_row(number: int, *, n_views: int | None = None) -> ContentRow:
    rng = np.random.default_rng(number)
    views = None if n_views is None else rng.normal(size=(n_views, N_FEATURES)).astype(np.float32)
    return ContentRow(
        sha256=f"{number:064x}",
        width=number + 1,
        height=number + 2,
        phash=2**63 + number,
        thumbnail=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        plain=rng.normal(size=N_FEATURES).astype(np.float32),
        augmented=views,
    )


def make_images(rows: list[ContentRow], paths: list[str] | None = None) -> ImageTable:
    n = len(rows)
    return ImageTable(
        path=paths or [f"train/a/{number:03}.jpg" for number in range(n)],
        sha256=[row.sha256 for row in rows],
        content=np.arange(n, dtype=np.int64),
        label=np.zeros(n, np.int16),
        split=["train"] * n,
        entry=[f"train/a/{number:03}.jpg" for number in range(n)],
        skipped=[""] * n,
    )


def write(path, rows, *, n_views=2, images=None, classes=("a", "b"), **config):
    return write_store(
        path,
        config={"backbone": "mean", "store_dtype": "float32", **config},
        config_digest="d" * 64,
        rows=rows,
        n_views=n_views,
        n_features=N_FEATURES,
        images=images or make_images(rows),
        classes=classes,
        ordered=True,
        created_with={"engine": "none", "dataset": "set"},
    )


@pytest.fixture
def rows():
    return [make_row(0, n_views=2), make_row(1), make_row(2, n_views=2)]


def test_every_dataset_and_attribute_of_the_format_has_its_type(tmp_path, rows):
    write(tmp_path / "s.h5", rows)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["format"] == "folio-features"
        assert file.attrs["format_version"] == 1
        assert json.loads(file.attrs["config"])["backbone"] == "mean"
        assert file.attrs["config_digest"] == "d" * 64
        assert list(file.attrs["classes"]) == ["a", "b"]
        assert file.attrs["ordered"]
        assert json.loads(file.attrs["created_with"])["engine"] == "none"
        numbers = {
            "content/width": ("i4", (3,)),
            "content/height": ("i4", (3,)),
            "content/phash": ("u8", (3,)),
            "content/thumbnail": ("u1", (3, 32, 32, 3)),
            "content/crc32": ("u4", (3,)),
            "features/plain": ("f4", (3, 5)),
            "features/augmented": ("f4", (2, 2, 5)),
            "features/augmented_content": ("i8", (2,)),
            "images/content": ("i8", (3,)),
            "images/label": ("i2", (3,)),
        }
        for name, (dtype, shape) in numbers.items():
            assert file[name].dtype == np.dtype("<" + dtype), name
            assert file[name].shape == shape, name
            assert file[name].fletcher32, name
        for name in (
            "content/sha256",
            "images/path",
            "images/sha256",
            "images/split",
            "images/entry",
            "images/skipped",
        ):
            kind = h5py.check_string_dtype(file[name].dtype)
            assert (kind.encoding, kind.length) == ("utf-8", None), name
            assert file[name].shape == (3,), name
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        texts = {"content/sha256", *(f"images/{n}" for n in ("path", "sha256", "split", "entry", "skipped"))}
        assert set(found) == set(numbers) | texts
        assert list(file["features/plain"].attrs["level_names"]) == ["final"]
        assert list(file["features/plain"].attrs["level_ends"]) == [5]


def test_values_are_stored_unchanged(tmp_path, rows):
    write(tmp_path / "s.h5", rows)
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["features/plain"][:], [row.plain for row in rows])
        np.testing.assert_array_equal(file["features/augmented"][:], [rows[0].augmented, rows[2].augmented])
        np.testing.assert_array_equal(file["features/augmented_content"][:], [0, 2])
        np.testing.assert_array_equal(file["content/thumbnail"][:], [row.thumbnail for row in rows])
        np.testing.assert_array_equal(file["content/phash"][:], [2**63, 2**63 + 1, 2**63 + 2])
        assert file["content/crc32"][1] == zlib.crc32(rows[1].plain.tobytes())
        assert file["content/crc32"][2] == zlib.crc32(rows[2].plain.tobytes() + rows[2].augmented.tobytes())


def test_open_store_reads_back_what_was_written(tmp_path, rows):
    images = make_images(rows)
    write(tmp_path / "mean+rescale.h5", rows, images=images)
    with open_store(tmp_path / "mean+rescale.h5") as store:
        assert store.name == "mean+rescale"
        assert store.dataset == "set"
        assert (store.n_images, store.n_content, store.n_augmented, store.n_views) == (3, 3, 2, 2)
        assert store.images.same_as(images)
        np.testing.assert_array_equal(store.plain([0, 2]), [rows[0].plain, rows[2].plain])
        np.testing.assert_array_equal(store.augmented(n_views=1)[1], rows[2].augmented[:1])
        kept = store.row(2, augmented_index=1)
    assert (kept.sha256, kept.phash) == (rows[2].sha256, rows[2].phash)
    np.testing.assert_array_equal(kept.augmented, rows[2].augmented)


def test_float16_halves_both_kinds_of_features(tmp_path, rows):
    write(tmp_path / "s.h5", rows, store_dtype="float16")
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["features/plain"].dtype == np.float16
        assert file["features/augmented"].dtype == np.float16
    with open_store(tmp_path / "s.h5") as store:
        assert store.plain().dtype == np.float32
        np.testing.assert_allclose(store.plain(), [row.plain for row in rows], rtol=2**-10, atol=2**-14)


def test_a_store_without_views_is_a_store(tmp_path):
    write(tmp_path / "s.h5", [make_row(0), make_row(1)], n_views=0)
    with open_store(tmp_path / "s.h5") as store:
        assert store.n_views == 0
        assert store.augmented().shape == (0, 0, N_FEATURES)


def test_more_rows_than_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("featurize.store.writer.CHUNK_BYTES", 60)  # three rows of five float32
    rows = [make_row(number, n_views=1) for number in range(10)]
    write(tmp_path / "s.h5", rows, n_views=1)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["features/plain"].chunks == (3, 5)
        np.testing.assert_array_equal(file["features/plain"][:], [row.plain for row in rows])


def test_a_flipped_bit_is_an_error_and_not_a_feature(tmp_path, rows):
    path = tmp_path / "s.h5"
    write(path, rows)
    data = bytearray(path.read_bytes())
    data[data.index(rows[1].plain.tobytes()) + 3] ^= 1
    path.write_bytes(data)
    with open_store(path) as store, pytest.raises(StoreError, match="features/plain is damaged on disk"):
        store.plain()


def test_the_file_appears_only_when_finished(tmp_path, rows):
    path = tmp_path / "s.h5"
    with StoreWriter(
        path, config={}, config_digest="", n_features=N_FEATURES, n_views=2, most_rows=3
    ) as writer:
        writer.add(rows[0])
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_store_stays_readable_while_it_is_open(tmp_path, rows):
    path = tmp_path / "s.h5"
    write(path, rows)
    with open_store(path) as before:
        write(path, [make_row(7, n_views=2)])
        np.testing.assert_array_equal(before.plain(), [row.plain for row in rows])
    with open_store(path) as after:
        assert after.n_content == 1


def test_rows_out_of_order_are_refused(tmp_path, rows):
    with pytest.raises(StoreError, match="rows must be sorted"):
        write(tmp_path / "s.h5", [rows[1], rows[0]])


names = st.text(st.characters(codec=None, exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)
raw = (
    st.binary(min_size=1).filter(lambda b: b"\0" not in b).map(lambda b: b.decode("utf-8", "surrogateescape"))
)


@given(name=names | raw)
def test_any_file_name_comes_back_as_it_was(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("names") / "s.h5"
    rows = [make_row(0)]
    write(path, rows, n_views=0, images=make_images(rows, [name]), classes=(name,))
    with open_store(path) as store:
        assert store.images.path == [name]
        assert store.classes == (name,)
    with h5py.File(path) as file:
        assert file["images/path"][0] == name.encode("utf-8", "surrogateescape")


def test_a_file_that_is_not_a_store_is_refused(tmp_path):
    with pytest.raises(
        StoreError, match=r"nothing\.h5: no such store. Create one with: featurize extract DATA"
    ):
        open_store(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreError, match=r"text\.h5: not a readable HDF5 file"):
        open_store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a Folio feature store"):
        open_store(tmp_path / "other.h5")
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "folio-features", 2
    with pytest.raises(StoreError, match="format version 2, but this Folio reads version 1"):
        open_store(tmp_path / "newer.h5")


def test_damaged_metadata_is_a_store_error(tmp_path, rows):
    path = tmp_path / "s.h5"
    write(path, rows, weights={"kind": "random", "sha256": "0" * 64})
    assert store_facts(path)["backbone"] == "mean"
    content = path.read_bytes()
    needles = (b"folio-features", b"format_version", b"config", b"classes", b"created_with", b'{"')
    starts = [start for start in range(len(content)) if content.startswith(needles, start)]
    messages = []
    # Only names and values: HDF5 itself never comes back from some wrong lengths before them, which is why
    # `featurize verify` reads in a process of its own.
    for place in sorted({start + near for start in starts for near in range(0, 48, 3)}):
        for bit in (0, 5):
            altered = bytearray(content)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            for read in (lambda: open_store(path).close(), lambda: store_facts(path)):
                try:
                    read()
                except StoreError as error:
                    messages.append(str(error))
    assert sum("is damaged on disk" in message for message in messages) > 50
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ("name", "value"),
    [("config", "{"), ("config", "[1]"), ("created_with", "7"), ("classes", 3), ("ordered", None)],
)
def test_attributes_of_a_wrong_type_are_damage(tmp_path, rows, name, value):
    path = tmp_path / "s.h5"
    write(path, rows)
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(
        StoreError, match=r"attributes.* is damaged on disk .*Repair it with: featurize repair"
    ):
        open_store(path)


def test_a_config_that_lacks_a_name_is_damage_too(tmp_path, rows):
    write(tmp_path / "s.h5", rows)  # names no weights
    with pytest.raises(StoreError, match="damaged on disk"):
        store_facts(tmp_path / "s.h5")
