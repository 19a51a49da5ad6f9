"""Studies within a comparison: names, independence of test images, cached results."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from classify.cli.main import cli
from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.evaluation.studies import STUDIES, resolve_studies, run_studies, study_lines
from classify.jobs.compare import compare
from classify.model_selection import cache
from classify.model_selection.grid_search import SearchSettings, run_candidates
from classify.model_selection.protocol import make_protocol

LEVELS = {"level_names": ("1/2", "1/4", "final"), "level_ends": (4, 8, 12), "n_features": 12}
STORE = {"counts": {"train": 15, "test": 6}, "distance": 2.0, **LEVELS}
GRADES = ("1_low", "2_middle", "3_award")


def test_studies_are_known_by_name_in_one_order():
    assert resolve_studies(("labels", "leaks", "labels")) == ("leaks", "labels")
    assert resolve_studies(("all",)) == tuple(STUDIES)
    assert resolve_studies(()) == ()
    with pytest.raises(CompareError, match="Unknown study 'leek': expected some of leaks, learning"):
        resolve_studies(("leek",))


def test_a_second_comparison_reads_the_studies_from_the_cache(make_store, tmp_path, monkeypatch):
    tasks, run_tasks = [], cache.run_tasks

    def watched(work, **options):
        tasks.extend(work)
        return run_tasks(work, **options)

    monkeypatch.setattr(cache, "run_tasks", watched)
    path = make_store(**STORE)
    one = compare([path], heads=("logreg",), study=("all",), out=tmp_path / "one", jobs=1)
    studies = one.record["studies"]
    assert set(studies) == set(STUDIES)
    assert studies == json.loads((one.folder / "results.json").read_text())["studies"]
    for name in ("leaks", "learning", "views", "levels", "labels"):
        assert (studies[name]["store"], studies[name]["head"]) == ("efficientnet_lite0", "logreg")
    assert studies["ordering"]["text"].startswith(
        "Study 'ordering' not possible: it needs three or more ordered classes"
    )
    assert (one.folder / "doubtful.csv").is_file()
    tasks.clear()
    two = compare([path], heads=("logreg",), study=("all",), out=tmp_path / "two", jobs=1)
    assert tasks == []
    assert two.record["studies"] == studies
    lists = [(done.folder / "doubtful.csv").read_bytes() for done in (one, two)]
    assert lists[0] == lists[1]


@pytest.mark.parametrize(
    "counts",
    [
        {"train": 10, "test": 6},
        pytest.param({"train": 7, "val": 3, "test": 6}, marks=pytest.mark.long),
    ],
)
def test_no_study_uses_test_images(make_store, tmp_path, counts):
    samples = load_samples(make_store(**{**STORE, "counts": counts}))
    generator = np.random.default_rng(0)
    test = samples.test_images
    plain, y = samples.plain.copy(), samples.y.copy()
    plain[samples.content[test]] = generator.normal(size=(len(test), samples.n_features))
    y[test] = generator.permutation(y[test])
    settings = SearchSettings(seed=0, class_weight=None, dense_options={}, log_folder=None)

    def found(these):
        protocol = make_protocol(these, seed=0)
        candidates = run_candidates([these], ("logreg",), protocol, settings=settings, jobs=1)
        recommended = {"store": these.store, "head": "logreg"}
        return run_studies(
            tuple(STUDIES),
            candidates,
            protocol,
            recommended=recommended,
            settings=settings,
            folder=tmp_path,
            jobs=1,
        )

    assert found(replace(samples, plain=plain, y=y)) == found(samples)


def test_they_are_printed_below_the_leaderboard(make_store, tmp_path):
    path = make_store(**STORE)
    arguments = ["compare", str(path), "--heads", "logreg", "--study", "leaks,labels", "--out"]
    done = CliRunner().invoke(cli, [*arguments, str(tmp_path / "run"), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(record["studies"]) == ["leaks", "labels"]
    lines = study_lines(record)
    leaks, labels = record["studies"]["leaks"], record["studies"]["labels"]
    shown = [[found["text"], *(f"  {line}" for line in found["shown"])] for found in (leaks, labels)]
    assert lines == [*shown[0], *shown[1]]
    for line in lines:
        assert f"{line}\n" in done.output


def test_an_unknown_study_is_refused_before_any_work(make_store, tmp_path):
    with pytest.raises(CompareError, match="Unknown study"):
        compare([make_store()], heads=("logreg",), study=("leek",), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_fitted_head_each_study_has_a_reason(make_store, tmp_path):
    done = compare([make_store()], heads=("baseline",), study=("leaks",), out=tmp_path / "run", jobs=1)
    assert "no head could be fitted" in done.record["studies"]["leaks"]["reason"]
