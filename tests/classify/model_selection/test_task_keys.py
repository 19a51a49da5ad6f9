"""The key of an outcome changes with everything that the outcome depends on, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import classify
from classify.data.samples import load_samples
from classify.model_selection import cache
from classify.model_selection.cache import task_key
from classify.model_selection.tasks import FitTask, ScoreTask
from featurize.base import project


@pytest.fixture
def samples(make_store):
    return load_samples(make_store(counts={"train": 6, "test": 3}))


def score_task(samples, **changes):
    train = samples.train_images
    fields = {
        "samples": samples,
        "head": "logreg",
        "points": ({"C": 0.1}, {"C": 1.0}),
        "fit": train[::2],
        "score": train[1::2],
        "class_weight": None,
        "seed": 0,
    }
    return ScoreTask(**{**fields, **changes})


def fit_task(samples, **changes):
    fields = {
        "samples": samples,
        "head": "logreg",
        "params": {"C": 0.1},
        "fit": samples.train_images,
        "test": samples.test_images,
        "val": None,
        "class_weight": None,
        "seed": 0,
        "return_head": True,
    }
    return FitTask(**{**fields, **changes})


def key(task, device="auto"):
    return task_key(task, device=device)


def with_one_bit_flipped(array, row):
    changed = array.copy()
    changed[row].view(np.uint8).reshape(-1)[0] ^= 1
    return changed


def test_a_key_is_reproducible(make_store):
    one, two = (load_samples(make_store(counts={"train": 6, "test": 3})) for _ in range(2))
    assert key(score_task(one)) == key(score_task(two))
    assert key(fit_task(one)) == key(fit_task(two))
    assert key(score_task(one)) != key(fit_task(one))


def test_irrelevant_changes_keep_the_key(samples, tmp_path):
    renamed = replace(samples, store="other", dataset="other", path=[f"x/{path}" for path in samples.path])
    assert key(score_task(renamed)) == key(score_task(samples))
    assert key(fit_task(samples, return_head=False, log_dir=tmp_path)) == key(fit_task(samples))
    assert key(score_task(samples), "cpu") == key(score_task(samples), "gpu:0")  # it runs on the CPU anyway
    defaults = {"scaling": "standardise", "tol": 1e-6, "max_iter": 10_000, "class_weight": None}
    assert key(fit_task(samples, params={"C": 0.1, **defaults})) == key(fit_task(samples))
    test = samples.content[samples.test_images[0]]
    elsewhere = replace(samples, plain=with_one_bit_flipped(samples.plain, test))
    assert key(score_task(elsewhere)) == key(score_task(samples))  # no fold holds a test image


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "svm-linear"},
        {"points": ({"C": 0.1},)},
        {"points": ({"C": 0.1}, {"C": 1.0, "levels": "all"})},
        {"class_weight": "balanced"},
        {"seed": 1},
        {"fit": np.array([0, 2, 4])},
        {"score": np.array([1, 3])},
    ],
    ids=str,
)
def test_changes_of_scores_change_the_key(samples, changes):
    assert key(score_task(samples, **changes)) != key(score_task(samples))


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"C": 1.0}},
        {"params": {"C": 0.1, "levels": "all"}},
        {"class_weight": "balanced"},
        {"seed": 1},
        {"fit": np.array([0, 2, 4])},
        {"test": np.array([1])},
        {"val": np.array([1])},
    ],
    ids=str,
)
def test_changes_of_a_fit_change_the_key(samples, changes):
    assert key(fit_task(samples, **changes)) != key(fit_task(samples))


def test_one_bit_of_a_feature_a_label_or_a_group_changes_the_key(samples):
    image = samples.train_images[0]
    content = samples.content[image]
    views = with_one_bit_flipped(samples.augmented, (samples.augmented_row[content], 1))
    label, group = samples.y.copy(), samples.group.copy()
    label[image] = 1 - label[image]
    group[image] = group[samples.train_images[2]]
    changed = [
        replace(samples, plain=with_one_bit_flipped(samples.plain, content)),
        replace(samples, augmented=views),
        replace(samples, y=label),
        replace(samples, group=group),
        replace(samples, level_ends=(4, 8), level_names=("1/2", "final")),
    ]
    keys = {key(score_task(one)) for one in (samples, *changed)}
    assert len(keys) == 1 + len(changed)
    assert len({key(fit_task(one)) for one in (samples, *changed)}) == 1 + len(changed)


def test_the_order_of_images_matters(samples):
    assert key(fit_task(samples, fit=samples.train_images[::-1])) != key(fit_task(samples))


def test_a_network_depends_on_its_device(samples):
    dense = {"head": "dense", "points": ({"scaling": "l2"},)}
    assert key(score_task(samples, **dense), "cpu") != key(score_task(samples, **dense), "gpu:0")


@pytest.mark.parametrize("package", ["numpy", "scipy", "scikit-learn"])
def test_another_version_changes_the_key(samples, monkeypatch, package):
    before, version = key(fit_task(samples)), project.version
    monkeypatch.setattr(project, "version", lambda name: "99" if name == package else version(name))
    assert key(fit_task(samples)) != before


def test_another_line_of_code_changes_the_key(samples, monkeypatch, tmp_path):
    before = key(fit_task(samples))
    here = Path(classify.__file__).parent
    for path in (path for pattern in cache._SOURCES for path in here.glob(pattern)):
        name = path.relative_to(here)
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(path.read_bytes())
    monkeypatch.setattr(cache, "_CLASSIFY", tmp_path)
    seen = {before}
    for name in ("data/samples.py", "heads/logistic.py", "heads/svm.py"):
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        project.sources_digest.cache_clear()
        seen.add(key(fit_task(samples)))
    project.sources_digest.cache_clear()
    assert len(seen) == 4
