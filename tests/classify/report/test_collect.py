"""Images of the page against scikit-learn's neighbours, rows read by h5py, and the folder."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from classify.errors import CompareError
from classify.io.results import read_record
from classify.jobs.compare import compare
from classify.report.collect import collect_report_data, find_stores, without_stores
from classify.report.embedding import feature_map
from classify.report.predictions import read_tested
from featurize import StoreError


@pytest.fixture
def made(tmp_path):
    """Compare stores with the quickest head and return the folder and what is in it."""

    def made(*stores, heads=("nearest-mean",), **options):
        done = compare(stores, heads=heads, out=tmp_path / "run", jobs=1, report=False, **options)
        record = read_record(done.folder)
        return done.folder, record, read_tested(done.folder, record)

    return made


def collected(folder, record, tested, **options):
    options = {"with_pictures": False, **options}
    return collect_report_data(folder, record, tested, stores=find_stores(folder, record), **options).shown


def test_stores_are_found_where_they_were(photo_run):
    assert find_stores(photo_run.folder, photo_run.record) == list(photo_run.stores)


def test_stores_are_found_below_the_working_directory_above_the_run_and_at_given_paths(
    photo_run, tmp_path, monkeypatch
):
    record = json.loads(json.dumps(photo_run.record))
    for store in record["stores"]:
        store["path"] = f"features/{store['store']}.h5"
    project = tmp_path / "project"
    (project / "features").mkdir(parents=True)
    for store in photo_run.stores:
        shutil.copy(store, project / "features")
    run = project / "artifacts" / "runs" / "it"
    run.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = [store.name for store in photo_run.stores]
    assert find_stores(run, record) == [project / "features" / name for name in names]
    monkeypatch.chdir(run)
    assert [path.resolve() for path in find_stores(run.relative_to(run), record)] == [
        project / "features" / name for name in names
    ]
    monkeypatch.chdir(project)
    assert [str(path) for path in find_stores(run, record)] == [f"features/{name}" for name in names]
    moved = (tmp_path / "elsewhere" / names[1],)
    shutil.copy(photo_run.stores[1], moved[0])
    assert find_stores(run, record, moved) == [find_stores(run, record)[0], *moved]
    shutil.rmtree(project / "features")
    with pytest.raises(CompareError) as caught:
        find_stores(run, record, moved)
    assert str(caught.value) == (
        "features/efficientnet_lite0.h5: not found. Pass its current path with: --store FILE"
    )


def test_a_given_path_must_be_a_store_of_the_run(photo_run, tmp_path):
    with pytest.raises(CompareError) as caught:
        find_stores(photo_run.folder, photo_run.record, [photo_run.folder / "resnet50.h5"])
    assert str(caught.value) == (
        f"{photo_run.folder / 'resnet50.h5'}: not a store of this run. Its stores: efficientnet_lite0, vgg16"
    )
    with pytest.raises(CompareError) as caught:
        find_stores(photo_run.folder, photo_run.record, [tmp_path / "vgg16.h5"])
    assert str(caught.value) == f"{tmp_path / 'vgg16.h5'}: no such file. Pass the current path of vgg16.h5"
    (tmp_path / "vgg16.h5").write_text("no store")
    with pytest.raises(StoreError):
        find_stores(photo_run.folder, photo_run.record, [tmp_path / "vgg16.h5"])


def test_a_store_extracted_again_with_other_settings_is_refused(
    photo_run, photo_store, tmp_path, store_config
):
    other = photo_store(
        tmp_path / "vgg16.h5", photo_run.data, {**store_config, "resample": "nearest"}, seed=1
    )
    with pytest.raises(CompareError) as caught:
        find_stores(photo_run.folder, photo_run.record, [other])
    assert str(caught.value) == (
        f"{other}: was extracted again with other settings since the comparison. Run classify compare again"
    )


def rows_of(store) -> tuple[list[str], np.ndarray]:
    """Return the paths of the images that could be read, and their features, as h5py has them."""
    with h5py.File(store) as file:
        path = file["images/path"].asstr(errors="surrogateescape")[:].tolist()
        content = file["images/content"][:]
        plain = file["features/plain"][:]
    return [path[k] for k in np.flatnonzero(content >= 0)], plain[content[content >= 0]]


@pytest.fixture(scope="module")
def shown(photo_run):
    tested = read_tested(photo_run.folder, photo_run.record)
    return tested, collected(photo_run.folder, photo_run.record, tested)


def test_the_images_of_each_tested_entry(photo_run, shown):
    tested, found = shown
    assert len(found.path) == 61
    assert [len(unit) for unit in found.entry_images] == [1] * 24
    for entry, unit, split in zip(tested.entry, found.entry_images, found.entry_split, strict=True):
        name = found.path[unit[0]].replace("\n", "\\n").replace("\u202e", "\\u202e")
        assert (name, split, found.split[unit[0]]) == (entry, "test", "test")
    assert found.notes == ("Pictures are not shown, as requested.",)
    assert set(found.picture) == {-1}


@pytest.mark.parametrize("number", [0, 1])
def test_the_nearest_training_images_are_those_of_scikit_learn(photo_run, shown, number):
    _, found = shown
    store = photo_run.stores[number]
    path, X = rows_of(store)
    row = {name: k for k, name in enumerate(path)}
    fitted = [name for name in path if name.startswith("train/") and "copy" not in name]
    search = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute")
    search.fit(X[[row[name] for name in fitted]].astype(float))
    for unit, pairs in zip(found.entry_images, found.nearest[store.stem], strict=True):
        distance, index = search.kneighbors(X[[row[found.path[unit[0]]]]].astype(float))
        assert [found.path[image] for image in pairs[::2]] == [fitted[k] for k in index[0]]
        np.testing.assert_allclose(pairs[1::2], 1 - distance[0], atol=1e-3)


def test_each_store_has_its_map(photo_run, shown):
    _, found = shown
    for store in photo_run.stores:
        path, X = rows_of(store)
        positions = feature_map(X[[path.index(name) for name in found.path]], seed=0)
        mine = found.maps[store.stem]
        assert mine["image"] == list(range(61))
        np.testing.assert_allclose(np.column_stack([mine["x"], mine["y"]]), positions.position, atol=1e-4)
        assert mine["method"] == positions.method
        assert json.dumps(mine)


def rewrite(folder, rows):
    with (folder / "doubtful.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(
            stream, ["rank", "entry", "path", "grade", "looks_like", "doubt", "p_grade", "reason"]
        )
        writer.writeheader()
        writer.writerows({"rank": k, **row} for k, row in enumerate(rows, start=1))


def test_doubtful_grades_are_those_of_the_list_that_are_still_there(photo_run, copied_run, shown):
    tested, _ = shown
    rewrite(
        copied_run,
        [
            {"entry": "train/low/gone.jpg", "path": "train/low/gone.jpg", "grade": "low", "reason": "x"},
            {
                "entry": "train/low/03.jpg",
                "path": "",
                "grade": "low",
                "looks_like": "award",
                "reason": "é;\n<b>",
            },
            {"entry": "e", "path": "train/award/00.jpg", "grade": "award", "reason": "alone"},
        ],
    )
    found = collected(copied_run, photo_run.record, tested)
    first, second = found.doubtful
    assert {name: first[name] for name in ("entry", "grade", "looks_like", "reason", "split")} == {
        "entry": "train/low/03.jpg",
        "grade": "low",
        "looks_like": "award",
        "reason": "é;\n<b>",
        "split": "train",
    }
    assert [found.path[image] for image in first["images"]] == ["train/low/03.jpg"]
    # What is like it is sought where the study was: on vgg16; neither itself nor its copy is.
    path, X = rows_of(photo_run.stores[1])
    fitted = [k for k, name in enumerate(path) if name.startswith("train/") and "copy" not in name]
    for one, name in ((first, "train/low/03.jpg"), (second, "train/award/00.jpg")):
        others = [k for k in fitted if path[k] != name]
        search = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(
            X[others].astype(float)
        )
        (index,) = search.kneighbors(X[[path.index(name)]].astype(float), return_distance=False)
        assert [found.path[image] for image in one["near"][::2]] == [path[others[k]] for k in index]


def test_a_list_of_doubtful_grades_that_is_missing_or_damaged(photo_run, copied_run, shown):
    tested, _ = shown
    asked = (copied_run, photo_run.record, tested)
    path = copied_run / "doubtful.csv"
    whole = path.read_bytes()
    path.unlink()
    assert collected(*asked).doubtful == []
    assert len(collected(*asked).notes) == 1
    for spoiled in (b"\xff\xfe", b"rank,entry\n1,a\n", whole.splitlines()[0] + b"\n1,train/low/03.jpg,tra"):
        path.write_bytes(spoiled)
        found = collected(*asked)
        assert found.doubtful == []
        assert found.notes[1].startswith(f"No doubtful grades: {path}: cannot be read (")


def test_the_number_of_doubtful_grades_is_limited(photo_run, copied_run, shown, monkeypatch):
    monkeypatch.setattr("classify.report.collect.MAX_DOUBTFUL", 3)
    rewrite(
        copied_run,
        [{"entry": "a", "path": f"train/low/0{k}.jpg", "grade": "low", "reason": "x"} for k in range(8)],
    )
    found = collected(copied_run, photo_run.record, shown[0])
    assert [found.path[one["images"][0]] for one in found.doubtful] == [
        f"train/low/0{k}.jpg" for k in range(3)
    ]


def test_a_store_that_lost_what_was_tested_is_refused(photo_run, photo_store, tmp_path, store_config):
    data = tmp_path / "data"
    shutil.copytree(photo_run.data, data)
    (data / "test/low/03.jpg").unlink()
    stores = [
        photo_store(tmp_path / f"{name}.h5", data, {**store_config, "backbone": name}, seed=0)
        for name in ("efficientnet_lite0", "vgg16")
    ]
    tested = read_tested(photo_run.folder, photo_run.record)
    with pytest.raises(CompareError) as caught:
        collect_report_data(photo_run.folder, photo_run.record, tested, stores=stores)
    assert str(caught.value) == (
        f"{stores[0]}: no longer has the tested entry 'test/low/03.jpg'. Run classify compare again"
    )
    record = {**photo_run.record, "classes": ["low", "award"], "ordered": False}
    with pytest.raises(CompareError, match="its classes are now low, middle, award"):
        collect_report_data(photo_run.folder, record, tested, stores=stores)


def test_without_a_test_split_what_was_fitted_on_was_tested(made, make_store):
    folder, record, tested = made(make_store(counts={"train": 8, "val": 4}))
    found = collected(folder, record, tested)
    assert set(found.entry_split) == {"train"}
    assert sorted(unit[0] for unit in found.entry_images) == list(range(24))
    # None of its own neighbours, though all were fitted on.
    for unit, pairs in zip(found.entry_images, found.nearest["efficientnet_lite0"], strict=True):
        assert len(pairs) == 10
        assert unit[0] not in pairs[::2]


@pytest.mark.parametrize("join", ["probabilities", "features"])
def test_entries_of_several_images(made, make_store, join):
    store = make_store(counts={"train": 12, "test": 6}, per_entry=3)
    folder, record, tested = made(store, join=join)
    found = collected(folder, record, tested)
    assert len(tested.entry) == 4
    for entry, unit in zip(tested.entry, found.entry_images, strict=True):
        assert [found.path[image].rpartition("/")[0] for image in unit] == [entry] * 3
    path, X = rows_of(store)
    entries = [name.rpartition("/")[0] for name in found.path]
    if join == "features":
        X = np.array([X[[name.startswith(f"{one}/") for name in path]].mean(axis=0) for one in entries])
        assert len(found.maps["efficientnet_lite0"]["image"]) == 12  # one an entry
    else:
        X = X[[path.index(name) for name in found.path]].astype(float)
    unit_rows = X / np.linalg.norm(X, axis=1, keepdims=True)
    train = [k for k, name in enumerate(found.path) if name.startswith("train/")]
    if join == "features":
        train = [k for k in train if entries[k] not in entries[:k]]  # the first image stands for its entry
    for unit, pairs in zip(found.entry_images, found.nearest["efficientnet_lite0"], strict=True):
        likes = (unit_rows[unit] @ unit_rows[train].T).max(axis=0)
        best = np.argsort(-likes, kind="stable")[:5]
        np.testing.assert_allclose(pairs[1::2], likes[best], atol=1e-3)
        assert pairs[::2] == [train[k] for k in best]


def test_a_fused_store_has_a_space_of_its_own(made, make_store):
    stores = [make_store(name, config={"backbone": name}, seed=4) for name in ("efficientnet_lite0", "vgg16")]
    folder, record, tested = made(*stores, fuse=True)
    names = [store["store"] for store in record["stores"]]
    assert record["stores"][2]["path"] is None
    found = collected(folder, record, tested)
    assert list(found.maps) == list(found.nearest) == names
    assert len(names) == 3


def test_report_data_without_stores(by_hand):
    record, tested = by_hand([0, 1], {("a", "knn"): np.eye(3)[[0, 1]]})
    found = without_stores(tested, record, "a.h5: gone")
    assert found.shown.entry_images == [[], []]
    assert found.shown.entry_split == ["test", "test"]
    assert found.shown.notes == ("No map and no pictures: a.h5: gone",)
    assert found.shown.why_no_map == "No map and no pictures: a.h5: gone"
    assert (found.summary, found.configs, list(found.shown.path)) == (None, {}, [])
    record["protocol"]["kind"] = "nested cross-validation"
    assert without_stores(tested, record, "gone").shown.entry_split == ["train", "train"]


def test_pictures_of_tested_and_doubtful_images_come_first(photo_run, shown, monkeypatch):
    """Tested images and doubtful ones are large, what is near them and the map small."""
    tested, _ = shown
    asked = {}

    def pictures(images, *, large, small, **options):
        asked.update(large=list(large), small=list(small), data=options["data"])
        from classify.report.thumbnails import PageThumbnails

        return PageThumbnails(uri=(), number=np.full(len(images), -1), sides=(1, 1), notes=("so",))

    monkeypatch.setattr("classify.report.thumbnails.page_thumbnails", pictures)
    found = collected(photo_run.folder, photo_run.record, tested, with_pictures=True)
    doubted = [image for one in found.doubtful for image in one["images"]]
    assert asked["large"] == [*(unit[0] for unit in found.entry_images), *doubted]
    assert set(asked["small"]) == set(range(61))
    assert asked["data"] == photo_run.data
    assert found.notes == ("so",)
