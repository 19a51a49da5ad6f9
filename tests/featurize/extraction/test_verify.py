"""Stores altered with h5py or byte by byte: each fault is named; repair corrects it and nothing else."""

import json
import random
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import featurize
from featurize.engines import factory
from featurize.errors import ConfigError, DatasetError, StoreError
from featurize.extraction import verify as verify_module
from featurize.extraction.recompute import relative_difference
from featurize.extraction.repair import repair
from featurize.extraction.verify import verify
from featurize.store.writer import write_store

CLASSES, N_TRAIN, N_TEST, VIEWS = ("award", "low"), 4, 2, 2
N_CONTENTS = len(CLASSES) * (N_TRAIN + N_TEST)
N_TRAINING = len(CLASSES) * N_TRAIN
ALL = 10_000
CRC = "have a wrong checksum (crc32)"
FLETCHER = "cannot be read: wrong checksum (fletcher32)"


@pytest.fixture(autouse=True)
def _checked_here(no_child_processes):
    pass


def noise(path, seed):
    """Write an image whose views all differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images and its store, whose features are in chunks of four rows."""
    root = tmp_path_factory.mktemp("verification")
    data = root / "task"
    for label, name in enumerate(CLASSES):
        for split, n in (("train", N_TRAIN), ("test", N_TEST)):
            for number in range(n):
                noise(data / split / name / f"{number}.png", 100 * label + 10 * (split == "test") + number)
    shutil.copy(data / "train/low/0.png", data / "train/low/copy.png")
    (data / "train" / "low" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    script = Path(__file__).parents[1] / "stand_in.py"
    subprocess.run([sys.executable, script, data, root / "out"], check=True, capture_output=True)
    in_small_chunks(root / "out" / "mean+random.h5")
    return root


def in_small_chunks(path):
    """Write a store again with four rows of features in a chunk, where a real one has hundreds."""
    with featurize.open_store(path) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurize.store.writer.CHUNK_BYTES", 4 * 3 * 4)
        views = store.rows_of_views()
        names = store.content.sha256
        write_store(
            path,
            config=store.config,
            config_digest=store.config_digest,
            rows=[store.row(row, augmented_index=views.get(name)) for row, name in enumerate(names)],
            n_views=store.n_views,
            n_features=store.n_features,
            images=store.images,
            classes=store.classes,
            ordered=store.ordered,
            created_with=store.created_with,
        )


@pytest.fixture
def task(made, tmp_path, stand_in):
    """A copy of the folder and its store, to be altered."""
    shutil.copytree(made / "task", tmp_path / "task")
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "task"


@pytest.fixture
def store(task):
    return task.parent / "out" / "mean+random.h5"


def values(path):
    """Return every dataset of a store by plain h5py, and the attributes that do not name the run."""
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[:].tolist()

        file.visititems(visit)
        found |= {name: str(file.attrs[name]) for name in ("config", "config_digest", "classes", "ordered")}
    return found


def image_row(path, name):
    with h5py.File(path) as file:
        return list(file["images/path"][:]).index(name.encode())


def content_row(path, name):
    with h5py.File(path) as file:
        return int(file["images/content"][image_row(path, name)])


def lines(verification):
    return [str(fault) for fault in verification.faults]


def tamper(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def flip(path, needle):
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + len(needle) // 2] ^= 4
    path.write_bytes(data)


def test_a_clean_store_yields_nothing(task, store, stand_in, own_process):
    found = verify(store, data=task, sample=ALL)
    assert found.faults == found.notes == ()
    assert found.fix == ""
    assert (found.n_content, found.n_images) == (N_CONTENTS, N_CONTENTS + 2)
    assert found.sampled.n_contents == N_CONTENTS
    assert found.sampled.n_views == stand_in.n_seen == N_CONTENTS + N_TRAINING * VIEWS
    assert found.sampled.largest_difference == 0  # the stand-in is exact
    nothing = repair(store, data=task)
    assert (nothing.verification.clean, nothing.result) == (True, None)


def test_a_sample_is_as_large_as_asked_and_has_both_kinds(task, store, stand_in):
    found = verify(store, data=task, sample=3)
    assert found.sampled.n_contents == 3
    assert 3 < found.sampled.n_views == stand_in.n_seen < 3 * (1 + VIEWS)
    stand_in.built.clear()
    assert verify(store, data=task, sample=0).sampled is None
    assert stand_in.built == []


def test_the_recorded_folder_is_the_default_and_a_note_says_if_it_is_missing(task, made, store):
    assert verify(store, sample=0).data == made / "task"
    with h5py.File(store, "r+") as file:
        created = json.loads(file.attrs["created_with"])
        file.attrs["created_with"] = json.dumps({**created, "data": "/nowhere/at/all"})
    found = verify(store)
    assert found.clean
    assert found.sampled is found.data is None
    assert found.notes == (
        "the folder from which it was created, /nowhere/at/all, does not exist: rows were not compared with "
        "files, and no features were computed again. Name the folder with --data",
    )
    with pytest.raises(DatasetError, match="no such folder"):
        verify(store, data=task / "nowhere")


# damage on disk


def damaged_rows(store, name, row):
    """Flip a bit in a feature row; return the rows of its chunk and how many views that costs."""
    with h5py.File(store) as file:
        height = file[name].chunks[0]
        first = row - row % height
        rows = range(first, min(first + height, len(file[name])))
        needle = file[name][row].tobytes()
        augmented = file["features/augmented_content"][:]
        contents = set(augmented[list(rows)]) if name == "features/augmented" else set(rows)
        n_views = sum(1 + VIEWS * (content in augmented) for content in contents)
    flip(store, needle)
    return rows, n_views


@pytest.mark.parametrize(
    ("name", "row"), [("features/plain", 5), ("features/augmented", 1), ("content/thumbnail", 7)]
)
def test_a_flipped_bit_costs_its_chunk(task, store, stand_in, name, row):
    before = values(store)
    rows, n_views = damaged_rows(store, name, row)
    found = verify(store, data=task, sample=0)
    assert lines(found) == [f"{name}: rows {rows[0]} to {rows[-1]} {FLETCHER}"]
    assert 0 < len(found.faults[0].contents) < N_CONTENTS
    assert found.fix == f"featurize repair {store} --data {task} --sample 0"
    with pytest.raises(StoreError, match=rf"damaged on disk.*featurize repair {re.escape(str(store))}$"):
        featurize.extract(task, backbones=["mean"], weights="random", views=VIEWS + 1, out=store.parent)
    shutil.rmtree(store.with_name(store.name + ".parts"), ignore_errors=True)
    stand_in.built.clear()
    mended = repair(store, data=task, sample=0)
    assert stand_in.n_seen == mended.result.n_forward == n_views
    assert values(store) == before
    assert verify(store, data=task, sample=ALL).clean


def test_swapped_rows_have_wrong_checksums_and_are_never_copied(task, store, stand_in):
    before = values(store)
    first, second = (content_row(store, f"test/{name}/0.png") for name in CLASSES)

    def swap(file):
        plain = file["features/plain"]
        plain[first], plain[second] = plain[second], plain[first]

    tamper(store, swap)
    found = verify(store, data=task)
    expected = {f"test/{name}/0.png: features/plain {CRC}" for name in CLASSES}
    assert set(lines(found)) == expected
    noise(task / "test/low/new.png", 5)  # a run that writes the store again
    with pytest.raises(StoreError, match="wrong checksum"):
        featurize.extract(task, backbones=["mean"], weights="random", views=VIEWS, out=store.parent)
    (task / "test/low/new.png").unlink()
    shutil.rmtree(store.with_name(store.name + ".parts"), ignore_errors=True)
    stand_in.built.clear()
    repair(store, data=task, sample=0)
    assert stand_in.n_seen == 2
    assert values(store) == before


def test_features_of_another_image_with_a_valid_checksum_are_found_by_recomputation(task, store, stand_in):
    before = values(store)
    name, other = "test/award/1.png", "test/low/1.png"

    def replace(file):
        row = content_row(store, name)
        file["features/plain"][row] = file["features/plain"][content_row(store, other)]
        file["content/crc32"][row] = zlib.crc32(file["features/plain"][row].tobytes())

    tamper(store, replace)
    assert verify(store, data=task, sample=0).clean  # nothing else can tell
    found = verify(store, data=task, sample=ALL)
    (line,) = lines(found)
    assert line.startswith(f"{name}: its stored features are wrong: plain view (")
    assert "expected at most 0.0001" in line
    stand_in.built.clear()
    mended = repair(store, data=task, sample=ALL)
    assert mended.result.n_forward == 1
    assert values(store) == before


def test_a_wrong_view_is_named_by_its_number(task, store):
    name = "train/award/2.png"

    def replace(file):
        content = content_row(store, name)
        row = list(file["features/augmented_content"]).index(content)
        file["features/augmented"][row, 1] += 1
        plain, augmented = file["features/plain"][content], file["features/augmented"][row]
        file["content/crc32"][content] = zlib.crc32(plain.tobytes() + augmented.tobytes())

    tamper(store, replace)
    (line,) = lines(verify(store, data=task, sample=ALL))
    assert line.startswith(f"{name}: its stored features are wrong: view 2 (0.0")


def wrong_size(file, row):
    file["content/width"][row] += 1


def wrong_hash(file, row):
    file["content/phash"][row] ^= np.uint64(0x00FF00)


def wrong_thumbnail(file, row):
    file["content/thumbnail"][row] = 255 - file["content/thumbnail"][row]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (wrong_size, "it has 50 × 40 pixels, stored are 51 × 40"),
        (wrong_hash, "its perceptual hash differs from the stored one"),
        (wrong_thumbnail, "its thumbnail differs from the stored one"),
    ],
)
def test_metadata_is_compared_too(task, store, change, what):
    tamper(store, lambda file: change(file, content_row(store, "test/low/0.png")))
    assert lines(verify(store, data=task, sample=ALL)) == [f"test/low/0.png: {what}"]


def test_the_unit_of_the_difference_is_the_largest_feature():
    stored = np.array([0.0, 4.0, -2.0], np.float32)
    assert relative_difference(stored, stored, ends=[3]) == 0
    assert relative_difference(stored, np.array([0.0, 4.0, -1.0], np.float32), ends=[3]) == 0.25
    assert relative_difference(stored, np.array([8.0, 4.0, -2.0], np.float32), ends=[3]) == 1
    nan = np.array([np.nan, 4, -2], np.float32)
    for ends in ([3], [1, 3]):
        assert np.isnan(relative_difference(stored, nan, ends=ends))  # never within a tolerance


def test_each_level_has_its_own_unit():
    stored = np.array([0.5, 0.25, 400.0, 300.0], np.float32)
    computed = np.array([0.5, 0.5, 400.0, 300.0], np.float32)
    assert relative_difference(stored, computed, ends=[2, 4]) == 0.5
    assert relative_difference(stored, computed, ends=[4]) == pytest.approx(0.25 / 400)


# the table of images


def set_image(name, column, value):
    def change(store):
        row = image_row(store, name)
        tamper(store, lambda file: file[f"images/{column}"].__setitem__(row, value))

    return change


def flip_a_label(store):
    with h5py.File(store) as file:
        needle = file["images/label"][:].tobytes()
    flip(store, needle)


def lose_a_chunk(store):
    """Leave out the second chunk of the labels; HDF5 reads it as zeros without an error."""

    def change(file):
        labels = file["images/label"][:]
        del file["images/label"]
        again = file.create_dataset("images/label", labels.shape, "<i2", chunks=(4,), fletcher32=True)
        for start in (0, 8, 12):
            again[start : start + 4] = labels[start : start + 4]

    tamper(store, change)


def rename_in_the_file(store):
    data = store.read_bytes()
    name = b"train/award/3.png"
    assert data.count(name) == 2  # as path, and as entry
    store.write_bytes(data.replace(name, b"train/award/7.png"))


def swap_paths(store):
    def change(file):
        paths = file["images/path"]
        paths[0], paths[1] = paths[1], paths[0]

    tamper(store, change)


TEXT = "wrong checksum (crc32): some of the text has changed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            set_image("test/low/0.png", "label", 5),
            ["test/low/0.png: its label 5 is not one of the 2 classes"],
        ),
        (
            set_image("test/low/0.png", "content", 99),
            [f"test/low/0.png: its content 99 is not one of the {N_CONTENTS} rows"],
        ),
        (
            set_image("test/low/0.png", "content", -1),
            ["test/low/0.png: it has no features, but '' is not a known reason"],
        ),
        (flip_a_label, [f"images/label: rows 0 to {N_CONTENTS + 1} {FLETCHER}"]),
        (lose_a_chunk, ["images/label: rows 4 to 7 are missing"]),
        (rename_in_the_file, [f"images/path: {TEXT}", f"images/entry: {TEXT}"]),
        (
            swap_paths,
            [
                f"images/path: {TEXT}",
                "images/path: row 1 is not in order; expected rows sorted by their bytes",
            ],
        ),
        (set_image("test/low/0.png", "split", "tset"), [f"images/split: {TEXT}"]),
    ],
    ids=["label", "content", "no content", "bit of a label", "lost chunk", "path", "order", "split"],
)
def test_a_wrong_table_of_images_is_named_and_repaired_without_the_network(
    task, store, stand_in, change, expected
):
    before = values(store)
    change(store)
    found = verify(store, data=task, sample=0)
    assert lines(found)[: len(expected)] == expected
    assert {fault.reach for fault in found.faults} == {"images"}
    stand_in.built.clear()
    repair(store, data=task, sample=0)
    assert stand_in.n_seen == 0
    assert values(store) == before
    assert verify(store, data=task, sample=0).clean


def test_a_row_with_the_features_of_another_is_named(task, store):
    other = content_row(store, "test/low/1.png")
    set_image("test/low/0.png", "content", other)(store)
    (line,) = lines(verify(store, data=task, sample=0))
    assert line.startswith("test/low/0.png: its features belong to another content, ")


# the folder has changed


def move(old, new):
    return lambda root: (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("change", "expected", "n_forward"),
    [
        (lambda root: (root / "test/low/0.png").unlink(),
         ["test/low/0.png: removed: in the store, not in the folder"], 0),
        (lambda root: noise(root / "train/low/9.png", 9),
         ["train/low/9.png: added: in the folder, not in the store"], 1 + VIEWS),
        (lambda root: noise(root / "train/low/1.png", 9),
         ["train/low/1.png: changed: the file has another content now"], 1 + VIEWS),
        (move("train/low/1.png", "train/low/zz.png"),
         ["train/low/zz.png: moved: train/low/1.png in the store"], 0),
        (move("train/low/1.png", "train/award/zz.png"),
         ["train/award/zz.png: relabelled: train low in the store (train/low/1.png), train award now"], 0),
        (move("test/low/1.png", "train/low/zz.png"),
         ["train/low/zz.png: relabelled: test low in the store (test/low/1.png), train low now"], VIEWS),
        (lambda root: [p.rename(root / "test" / p.parent.name / ("new" + p.name))
                       for p in sorted((root / "test/award").iterdir())],
         [f"test/award/new{n}.png: moved: test/award/{n}.png in the store" for n in range(N_TEST)], 0),
    ],
    ids=["removed", "added", "changed", "moved", "relabelled", "test to train", "two moved"],
)  # fmt: skip
def test_what_changed_in_the_folder_is_named_and_repaired(task, store, stand_in, change, expected, n_forward):
    change(task)
    found = verify(store, data=task, sample=0)
    assert lines(found) == expected
    assert {fault.reach for fault in found.faults} == {"data"}
    repair(store, data=task, sample=0)
    assert stand_in.n_seen == n_forward
    fresh = task.parent / "fresh"
    featurize.extract(task, backbones=["mean"], weights="random", views=VIEWS, out=fresh)
    assert values(store) == values(fresh / store.name)


def test_a_wrong_label_is_relabelled(task, store, stand_in):
    before = values(store)
    set_image("test/low/0.png", "label", 0)(store)
    assert lines(verify(store, data=task, sample=0)) == [
        "test/low/0.png: relabelled: test award in the store, test low now"
    ]
    repair(store, data=task, sample=0)
    assert (stand_in.n_seen, values(store)) == (0, before)


def test_another_data_set_repairs_nothing(task, store):
    other = task.parent / "other"
    for number in range(3):
        noise(other / "a" / f"{number}.png", 900 + number)
    before = store.read_bytes()
    with pytest.raises(StoreError, match=r"only 0 of its 12 images are in"):
        repair(store, data=other, sample=0)
    assert store.read_bytes() == before


def test_entries_and_order_are_those_of_the_store(task, stand_in):
    (task / "train/low/album").mkdir()
    noise(task / "train/low/album/0.png", 77)
    (result,) = featurize.extract(
        task, backbones=["mean"], weights="random", views=0, out=task.parent / "by-image",
        entries="image", order=["low", "award"],
    )  # fmt: skip
    assert lines(verify(result.path, sample=0)) == []
    before = values(result.path)
    (task / "test/low/0.png").unlink()
    repair(result.path, sample=0)
    after = values(result.path)
    assert b"train/low/album/0.png" in after["images/entry"]
    assert after["classes"] == before["classes"] == "['low' 'award']"
    noise(task / "train/middle/0.png", 78)
    with pytest.raises(ConfigError, match=r"low < award.*--order"):
        repair(result.path, sample=0)


# stores that cannot be repaired


def resize(file):
    del file["content/width"]
    file["content/width"] = np.zeros(3, "<i4")


def retype(file):
    del file["images/label"]
    file.create_dataset("images/label", data=np.zeros(N_CONTENTS + 2, "<i4"))


def without_checksums(file):
    labels = file["images/label"][:]
    del file["images/label"]
    file.create_dataset("images/label", data=labels, chunks=labels.shape)


def other_config(file):
    config = json.loads(file.attrs["config"])
    file.attrs["config"] = json.dumps({**config, "resize": "crop"})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.__delitem__("content/phash"), "content/phash: this dataset is missing"),
        (lambda file: file.attrs.__delitem__("classes"), "classes: this attribute is missing"),
        (resize, "content/width: its shape is (3,); expected (12,)"),
        (retype, "images/label: its type is int32; expected int16"),
        (without_checksums, "images/label: it has no checksums (fletcher32)"),
        (other_config, "config: does not match config_digest"),
        (lambda file: file.attrs.modify("created_with", "{"), "created_with: is not a JSON object"),
        (
            lambda file: file["features/plain"].attrs.modify("level_ends", np.array([2])),
            "features/plain: level_ends [2] are not the ends of 3 columns",
        ),
    ],
    ids=["dataset", "attribute", "shape", "type", "no checksums", "config", "created_with", "levels"],
)
def test_a_broken_structure_is_named_and_only_a_new_extraction_helps(task, store, change, expected):
    tamper(store, change)
    found = verify(store, data=task)
    assert lines(found) == [expected]
    assert found.fix.startswith(f"move {store} away, then: featurize extract ")
    with pytest.raises(StoreError, match=r"cannot be repaired .* Extract it again: move "):
        repair(store, data=task)


@pytest.mark.parametrize("damage", ["cut", "overwritten", "text"])
def test_a_file_that_hdf5_cannot_read(task, store, damage, own_process):
    content = store.read_bytes()
    middle = len(content) // 2
    store.write_bytes(
        {"cut": content[:middle], "overwritten": bytes(4096) + content[4096:], "text": b"no store"}[damage]
    )
    found = verify(store, data=task)
    assert len(found.faults) == 1
    assert lines(found)[0].startswith("structure: HDF5 cannot read it (")
    assert "featurize extract DATA" in found.fix
    with pytest.raises(StoreError, match="cannot be repaired"):
        repair(store, data=task)


def test_the_new_extraction_has_the_options_of_the_config(task, stand_in):
    (result,) = featurize.extract(
        task, backbones=["mean"], weights="random", views=0, out=task.parent / "odd", resize="crop",
        input_size=48, seed=3, ranges=featurize.images.augment.ViewRanges(rotation=10, horizontal_flip=False),
        entries="image",
    )  # fmt: skip
    tamper(result.path, lambda file: file.__delitem__("content/phash"))
    command = verify(result.path).fix.partition("then: ")[2]
    for words in ("--backbone mean", "--weights random", "--resize crop", "--input-size 48", "--seed 3",
                  "--rotation 10", "--no-horizontal-flip", "--entries image", f"extract {task}"):  # fmt: skip
        assert words in command, command
    assert "--resample" not in command


def test_the_new_extraction_has_the_requested_precision(task, stand_in):
    stand_in.fast = ("bfloat16",)
    commands = []
    for options in ({"levels": True}, {"precision": "bfloat16"}, {"precision": "float32", "levels": True}):
        (result,) = featurize.extract(
            task,
            backbones=["mean"],
            weights="random",
            views=0,
            out=task.parent / f"{len(commands)}",
            **options,
        )
        tamper(result.path, lambda file: file.__delitem__("content/phash"))
        commands.append(verify(result.path).fix.partition("then: ")[2])
        assert ("--levels" in commands[-1]) == ("levels" in options)
    assert "--precision" not in commands[0]
    assert "--precision bfloat16" in commands[1]
    assert "--precision float32" in commands[2]


def test_a_sample_is_computed_in_the_precision_and_by_the_engine_of_the_store(task, stand_in):
    stand_in.fast, stand_in.errors = ("bfloat16",), {"bfloat16": 0.01}
    (result,) = featurize.extract(
        task, backbones=["mean"], weights="random", views=1, out=task.parent / "fast", levels=True
    )
    stand_in.fast = ()
    stand_in.built.clear()
    found = verify(result.path)
    assert found.clean
    assert found.sampled is not None
    assert found.sampled.largest_difference == 0
    (engine,) = stand_in.built
    assert (engine.precision, engine.options["engine"], engine.n_features) == ("bfloat16", "stand-in", 6)


def test_no_store_at_all(tmp_path):
    for function in (verify, repair):
        with pytest.raises(
            StoreError, match=r"none\.h5: no such store. Create one with: featurize extract DATA"
        ):
            function(tmp_path / "none.h5")


def test_views_that_lost_their_contents_are_all_computed_again(task, store, stand_in):
    before = values(store)

    def shuffle(file):
        file["features/augmented_content"][:2] = file["features/augmented_content"][:2][::-1]

    tamper(store, shuffle)
    found = verify(store, data=task)
    assert lines(found) == ["features/augmented_content: not in order; expected each content once, sorted"]
    repair(store, data=task)
    assert stand_in.n_seen == N_CONTENTS + N_TRAINING * VIEWS
    assert values(store) == before


@pytest.mark.slow
def test_every_flipped_bit_that_changes_a_value_is_noticed(task, store, monkeypatch, own_process, long):
    """Bits of the structure, the texts and the features; a broken structure may even make HDF5 hang."""
    monkeypatch.setattr(verify_module, "PROGRESS_TIMEOUT", 20.0)
    before, content = values(store), store.read_bytes()
    with h5py.File(store) as file:
        thumbnail = file["content/thumbnail"][0].tobytes()
    rng = random.Random(0)
    noticed = 0
    for _ in range(100 if long else 12):
        damaged, place = bytearray(content), rng.randrange(len(content))
        while thumbnail[:40] in content[place - 3072 : place + 40]:  # large, and tested above
            place = rng.randrange(len(content))
        damaged[place] ^= 1 << rng.randrange(8)
        store.write_bytes(damaged)
        faults, _ = verify_module.check_store(store, report=lambda stage, done, total: None)
        if faults:
            noticed += 1
        else:
            assert values(store) == before, f"bit in byte {place}"
    assert noticed > (15 if long else 2)


# interrupted


def test_a_repair_that_fails_half_way_is_resumed(task, store, stand_in, monkeypatch, own_process):
    before = values(store)
    damaged = store.read_bytes()
    _, n_views = damaged_rows(store, "features/plain", 5)
    damaged = store.read_bytes()
    create = factory.create_engine

    def failing(*args, **options):
        engine = create(*args, **options)
        forward = type(engine).__call__

        class Failing(type(engine)):
            def __call__(self, images):
                if self.n_seen >= 4:
                    raise RuntimeError("out of memory")
                return forward(self, images)

        engine.__class__ = Failing
        return engine

    monkeypatch.setattr(factory, "create_engine", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        repair(store, data=task, sample=0)
    assert store.read_bytes() == damaged
    monkeypatch.setattr(factory, "create_engine", create)
    (note,) = verify(store, data=task, sample=0).notes
    assert note.startswith("an unfinished run left 1 part in ")
    stand_in.built.clear()
    mended = repair(store, data=task, sample=0)
    assert mended.result.n_resumed >= 1
    assert stand_in.n_seen < n_views
    assert values(store) == before
    assert verify(store, data=task, sample=0).notes == ()


def test_views_of_a_store_without_recorded_options_are_computed_again(task, store, stand_in):
    """A store created with --views-for all, without its options."""
    (result,) = featurize.extract(
        task, backbones=["mean"], weights="random", views=1, out=task.parent / "all", views_for="all"
    )
    with h5py.File(result.path, "r+") as file:
        created = json.loads(file.attrs["created_with"])
        del created["options"]
        file.attrs["created_with"] = json.dumps(created)
        del file.attrs["text_crc32"]
    before = values(result.path)
    with h5py.File(result.path) as file:
        needle = file["features/plain"][3].tobytes()
    flip(result.path, needle)
    repair(result.path, sample=0)
    assert values(result.path) == before


def test_views_of_images_that_get_none_any_more_are_computed_again_too(task, stand_in):
    options = {"backbones": ["mean"], "weights": "random", "views": 1, "out": task.parent / "all"}
    featurize.extract(task, **options, views_for="all")
    noise(task / "test/low/new.png", 5)
    (result,) = featurize.extract(task, **options, views_for="train")  # keeps what is there
    before = values(result.path)
    with h5py.File(result.path) as file:
        assert len(file["features/augmented"]) == N_CONTENTS
        needle = file["features/plain"][3].tobytes()
    flip(result.path, needle)
    repair(result.path, sample=0)
    assert values(result.path) == before
