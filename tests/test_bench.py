"""scripts/bench: arithmetic checked by hand, arms on a few images, the record with stand-in arms."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench_arms
import bench_main
import bench_setting
from bench_arms import Arm, BenchError, Process, Timing, measurement, run_interleaved, run_whole_processes
from bench_data import readable_images, replicated, with_comment
from bench_extraction import cosines, ratios_with_setup
from bench_limits import marginal_seconds
from bench_tables import PARTS, markdown
from bench_tutorial import online_versus_stored

ROOT = Path(__file__).resolve().parent.parent

# Replacement for bench_child.py: logs each task and returns a result without any work.
STAND_IN = """
import json, sys, time
from pathlib import Path
factory, options = sys.argv[1], json.loads(sys.argv[2])
log = Path(sys.argv[0]).with_suffix(".log")
for line in sys.stdin:
    task = json.loads(line)
    with log.open("a") as file:
        file.write(json.dumps([factory, options, task]) + chr(10))
    if task.get("fails"):
        print("it went wrong", file=sys.stderr)
        raise SystemExit(1)
    start = time.perf_counter()
    time.sleep(0.002 if factory.startswith("bench_folio") else 0.004)
    facts = {"precision": options.get("precision", "float32"), "engine": "stand-in", "renderings": 7}
    facts["setup_seconds"] = 0.5
    if "data" in task:
        facts["units"] = len([path for path in Path(task["data"]).rglob("*") if path.is_file()])
    if "out" in task:
        Path(task["out"]).mkdir()
        Path(task["out"], "store.h5").touch()
    if "features" in options:
        import numpy as np
        np.save(options["features"], np.eye(3))
    if "heads" in task:
        found = {"params": {"scaling": "l2"}, "cv_balanced_accuracy": 0.5, "accuracy": 0.6}
        facts["heads"] = {head: {**found, "predicted": ["a", "b"]} for head in task["heads"]}
    if "seeds" in task:
        facts["accuracies"] = [0.5 for seed in task["seeds"]]
    answer = {"seconds": time.perf_counter() - start, "cpu_seconds": 0.001, "facts": facts}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """Replace every arm by the stand-in; return the path of its log."""
    return _replace_arms(tmp_path, monkeypatch)


def _replace_arms(folder, monkeypatch):
    child = folder / "child.py"
    child.write_text(STAND_IN)
    monkeypatch.setattr(bench_arms, "CHILD", child)
    return child.with_suffix(".log")


def logged_tasks(log: Path) -> list[tuple[str, dict]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [(factory, task) for factory, _, task in lines]


@pytest.fixture(scope="module")
def portfolio(tmp_path_factory) -> Path:
    """Two classes: 8 training and 2 test images each, and some that not every arm would read."""
    root = tmp_path_factory.mktemp("bench") / "task"
    generator = np.random.default_rng(0)
    for name in ("high", "low"):
        for split, n in (("train", 8), ("test", 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(n):
                pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                ending = "png" if number % 2 else "jpg"
                Image.fromarray(pixels).save(folder / f"{number}.{ending}")
    shutil.copy(root / "train" / "low" / "0.jpg", root / "train" / "low" / "again.jpg")
    Image.new("CMYK", (40, 40)).save(root / "train" / "low" / "printed.jpg")
    (root / "train" / "low" / "cut.jpg").write_bytes((root / "train" / "low" / "2.jpg").read_bytes()[:900])
    Image.new("RGB", (40, 40)).save(root / "test" / "low" / "other.webp")
    return root


def timing(*seconds: float, units: int = 1, **facts) -> Timing:
    made = Timing()
    for each in seconds:
        answer = {"seconds": each, "cpu_seconds": each, "peak_bytes": 0, "facts": {**facts, "units": units}}
        made.add(answer)
    return made


# ---- images


def test_only_images_that_every_arm_reads_are_used(portfolio, tmp_path):
    images = readable_images(portfolio, tmp_path / "tree", limit=None)
    assert images.counts == {"train": 16, "test": 4}
    assert images.left_out == 4  # the second copy, the CMYK, the cut and the WebP file
    assert images.n_renderings(4) == 16 * 5 + 4
    contents = {path.read_bytes() for _, _, path in images.files}
    assert contents == {path.read_bytes() for path in portfolio.rglob("*.*") if path.stem.isdecimal()}


def test_a_limit_takes_images_evenly(portfolio, tmp_path):
    images = readable_images(portfolio, tmp_path / "tree", limit=10)
    assert images.counts == {"train": 8, "test": 4}  # half of each class, and two at least


def test_without_a_test_split_every_fourth_image_is_a_test_image(portfolio, tmp_path):
    images = readable_images(portfolio / "train", tmp_path / "tree", limit=None)
    assert images.counts == {"train": 12, "test": 4}


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_comment_changes_bytes_but_no_pixel(tmp_path, ending):
    """Pillow is the oracle, and finds the comment."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path, other = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    Image.fromarray(pixels).save(path)
    other.write_bytes(with_comment(path.read_bytes(), b"copy 3"))
    with Image.open(path) as before, Image.open(other) as after:
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
        assert after.info.get("comment", after.info.get("Comment")) in (b"copy 3", "copy 3")


def test_copies_are_different_files(portfolio, tmp_path):
    images = readable_images(portfolio, tmp_path / "tree", limit=None)
    many = replicated(images, tmp_path / "many", times=4)
    assert many.counts == {"train": 64, "test": 16}
    assert len({path.read_bytes() for _, _, path in many.files}) == 80


# ---- timing


def test_arms_run_in_turns_and_the_warm_up_is_not_counted(stand_in):
    arms = {name: Arm(factory=f"module.{name}") for name in ("slow", "fast")}
    timings = run_interleaved(
        arms, {"one": {"n": 1}, "two": {"n": 2}}, warm_up={"n": 0}, repeats=2, budget=60
    )
    turns = [("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)]
    assert [(factory.removeprefix("module."), task["n"]) for factory, task in logged_tasks(stand_in)] == [
        ("slow", 0),
        ("fast", 0),
        *turns,
        *turns,
    ]
    assert all(len(one.seconds) == 2 for of_task in timings.values() for one in of_task.values())


def test_an_arm_stops_at_its_budget(stand_in):
    timings = run_interleaved({"a": Arm(factory="module.a")}, {"": {}}, warm_up={}, repeats=9, budget=0.001)
    assert len(timings[""]["a"].seconds) == 1


def test_an_arm_runs_only_its_tasks(stand_in):
    arms = {"a": Arm(factory="module.a", only=("one",)), "b": Arm(factory="module.b")}
    for timings in (
        run_interleaved(arms, {"one": {}, "two": {}}, warm_up={}, repeats=1, budget=60),
        run_whole_processes(arms, {"one": {}, "two": {}}, repeats=1, budget=60),
    ):
        assert {
            label: [name for name, one in of.items() if one.seconds] for label, of in timings.items()
        } == {
            "one": ["a", "b"],
            "two": ["b"],
        }


def test_a_whole_process_includes_its_start(stand_in):
    whole = run_whole_processes({"a": Arm(factory="module.a")}, {"": {}}, repeats=1, budget=60)[""]["a"]
    steady = run_interleaved({"a": Arm(factory="module.a")}, {"": {}}, warm_up={}, repeats=1, budget=60)[""][
        "a"
    ]
    assert whole.seconds[0] > steady.seconds[0] + 0.005  # Python alone takes longer to start


def test_a_failing_arm_shows_its_output(stand_in):
    process = Process(Arm(factory="module.a"))
    with pytest.raises(BenchError, match="it went wrong"):
        process.run({"fails": True})
    process.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_counts_children():
    hold = "import sys, time; held = bytearray({} << 20); print(flush=True); sys.stdin.read()"
    code = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {hold.format(60)!r}], stdout=subprocess.PIPE); "
        f"p.stdout.readline(); {hold.format(40)}"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with bench_arms.peak_memory(process.pid) as peak:
            try:
                process.wait(5 * bench_arms.POLL_SECONDS)
            except subprocess.TimeoutExpired:
                process.communicate()
    assert 100 << 20 < peak[0] < 140 << 20


def test_ratios_are_of_medians():
    row = measurement(
        {"backbone": "b"},
        {"usual": timing(8.0, 20.0, 10.0, units=5), "ours": timing(2.0, 1.0, units=5)},
        unit="image",
        baseline="usual",
        whole={"usual": timing(30.0, units=5), "ours": timing(10.0, units=5)},
    )
    assert row["arms"]["usual"]["median"] == 2.0
    assert row["arms"]["ours"]["median"] == pytest.approx(0.3)
    assert row["ratios"] == {"ours": pytest.approx(2 / 0.3)}
    assert row["whole"]["ratios"] == {"ours": pytest.approx(3)}


def test_marginal_seconds_exclude_the_fixed_cost():
    """3 s once and 0.5 s an image."""
    assert marginal_seconds(timing(8.0, units=10), timing(23.0, units=40)) == pytest.approx(0.5)


def test_online_versus_stored_by_hand():
    """100 images: plain 2 s, with 4 views 10 s; so a pass over the training images is 2 s, 300 are 600."""
    plain, augmented = (
        {
            "derived": {"images": 100},
            "arms": {"keras": {"median": seconds / 100}},
            "whole": {"arms": {"folio": {"median": 0.05}}},
        }
        for seconds in (2.0, 10.0)
    )
    found = online_versus_stored(plain, augmented, timing(7.0), views=4)
    assert found == {
        "seconds_per_epoch_online": pytest.approx(2.0),
        "hours_online": pytest.approx(1 / 6),
        "seconds_extraction": pytest.approx(5.0),
        "seconds_fit": 7.0,
        "times": pytest.approx(50.0),
    }


def test_setup_time_counts_for_keras_too():
    """10 images: 4 s and 1 s for the model; Folio, which makes its engine inside, 2 s."""
    timings = {
        "keras": timing(4.0, units=10, setup_seconds=1.0),
        "folio": timing(2.0, units=10),
        "timm": timing(2.0, units=10),
    }
    assert ratios_with_setup(timings) == {"folio": pytest.approx(2.5)}


def test_smallest_cosine_per_arm(tmp_path):
    for name, rows in {"a": [[1, 0], [0, 2]], "b": [[3, 0], [3, 4]]}.items():
        np.save(tmp_path / f"{name}.npy", np.array(rows, dtype=np.float32))
    found = cosines({name: tmp_path / f"{name}.npy" for name in "ab"})
    assert found == {"b": pytest.approx(0.8)}


# ---- the whole record


@pytest.fixture(scope="module")
def setting(portfolio, tmp_path_factory):
    return bench_setting.make_setting(
        tmp_path_factory.mktemp("work"),
        data=portfolio,
        backbones=("efficientnet_lite0",),
        engines=(),
        views=2,
        jobs=(None, 2),
        effort=bench_setting.QUICK,
        peers=sys.executable,
    )


@pytest.fixture(scope="module")
def record(setting, tmp_path_factory):
    """Every part, with stand-ins for the arms."""
    work = dataclasses.replace(setting, work=tmp_path_factory.mktemp("stand_in"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        _replace_arms(tmp_path_factory.mktemp("child"), monkeypatch)
        return bench_main.make_record(work, tuple(PARTS), data="task", quick=True)


def test_every_part_is_recorded_and_ratios_follow_from_the_runs(record, tmp_path):
    bench_main.write_record(record, tmp_path / "out" / "name")
    read = json.loads((tmp_path / "out" / "name.json").read_text(encoding="utf-8"))
    parts = ["network", "extraction", "roofline", "scaling", "dask", "heads", "tutorial"]
    assert list(read["parts"]) == parts
    assert read["machine"]["cores"] >= 1
    assert read["options"]["weights"] == {"efficientnet_lite0": "imagenet"}
    n_ratios = 0
    for row in (row for rows in read["parts"].values() for row in rows):
        for measured in (row, row.get("whole", {"arms": {}, "ratios": {}})):
            medians = {
                name: statistics.median(s / n for s, n in zip(arm["seconds"], arm["units"], strict=True))
                for name, arm in measured["arms"].items()
            }
            for name, median in medians.items():
                assert measured["arms"][name]["median"] == pytest.approx(median)
            for name, ratio in measured["ratios"].items():
                assert ratio == pytest.approx(medians[row["baseline"]] / medians[name])
                n_ratios += 1
    assert n_ratios > 10
    for row in read["parts"]["roofline"]:
        arms = row["arms"]
        best = (
            arms["decode"]["median"]
            + row["derived"]["float32"]["renderings"] * arms["network float32"]["median"]
        )
        share = best / arms["extraction float32"]["median"]
        assert row["derived"]["float32"]["share"] == pytest.approx(share)


def test_the_page_depends_on_the_record_only(record):
    page = markdown(json.loads(json.dumps(record)))
    for heading, _ in PARTS.values():
        assert f"\n## {heading}\n" in page
    for row in (row for rows in record["parts"].values() for row in rows):
        assert row["what"]["backbone"] in page
    for block in page.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    ratio = next(iter(record["parts"]["extraction"][0]["ratios"].values()))
    assert f"| {ratio:.2f} |" in page


def test_peers_of_a_missing_python():
    with pytest.raises(BenchError, match="--peers no/python: cannot be run"):
        bench_setting.find_peers("no/python")


def test_options():
    options = bench_main.parse_options(["--only", "network,heads", "--backbones", "vgg16", "--jobs", "none"])
    assert (options.only, options.backbones, options.jobs) == (("network", "heads"), ("vgg16",), (None,))
    with pytest.raises(SystemExit):
        bench_main.parse_options(["--only", "everything"])


@pytest.mark.slow
def test_arms_do_the_same_work(portfolio, setting, tmp_path, monkeypatch):
    """The real ones, in this process: as many renderings, the same features, the same heads chosen."""
    import bench_folio
    import bench_keras
    import bench_plain_heads

    monkeypatch.setattr(bench_keras, "BATCH", 4)  # it computes a whole batch before it is measured
    monkeypatch.setattr("classify.jobs.compare._write_report", lambda folder, samples: (None, ()))
    network_options = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    task = setting.task(1, backbone="efficientnet_lite0") | {"seconds": 0.05}
    usual = bench_keras.standard_loop(**network_options)(**task)
    ours = bench_folio.extraction(**network_options, precision="float32")(**task)
    assert (usual["units"], usual["renderings"]) == (20, 36)
    assert (ours["units"], ours["renderings"]) == (20, 36)
    assert bench_folio.decoding(size=224)(**task)["units"] == 20
    paths = {name: tmp_path / f"{name}.npy" for name in ("keras", "folio")}
    bench_keras.network(**network_options, call="predict", features=str(paths["keras"]))(**task)
    arm = bench_folio.network(
        **network_options, engine="auto", precision="float32", features=str(paths["folio"])
    )
    assert arm(**task)["precision"] == "float32"
    assert cosines(paths)["folio"] > 1 - 1e-6

    store = bench_folio.store_extraction(**network_options)(
        data=task["data"], views=1, out=str(tmp_path / "stores")
    )["path"]
    dense = {"epochs": 2, "units": (4,)}
    heads = ("logreg", "svm-linear")
    plain = bench_plain_heads.search(store=store, jobs=None, dense=dense)(heads=heads)["heads"]
    found = bench_folio.comparison(store=store, dense=dense)(heads=heads)["heads"]
    for head in heads:
        assert plain[head]["params"].items() <= found[head]["params"].items()
        assert plain[head]["predicted"] == found[head]["predicted"]
        assert plain[head]["cv_balanced_accuracy"] == pytest.approx(found[head]["cv_balanced_accuracy"])
    for module in (bench_folio, bench_plain_heads):
        fits = module.dense_fits(store=store, options=dense)
        assert len(fits(seeds=[0], params={"scaling": "l2"})["accuracies"]) == 1


# ---- scripts/bench


def test_help_needs_no_environment(tmp_path, bash):
    """Of a checkout that has none, and makes none."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    done = subprocess.run(
        [tmp_path / "scripts" / "bench", "--help"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.startswith("usage: scripts/bench ")
    assert not (tmp_path / ".venv").exists()
    for option in ("--quick", "--data", "--only", "--backbones", "--engines", "--views", "--jobs", "--peers"):
        assert option in done.stdout


def test_paths_are_relative_to_the_current_folder(tmp_path, bash):
    """A checkout whose environment is a script that prints what it is called with."""
    root, here = tmp_path / "checkout", tmp_path / "here"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    here.mkdir()
    stamp = 'ROOT=$1; source "$1/scripts/environment.sh"; { environment_key; echo run; } >"$STAMP"'
    subprocess.run([bash, "-c", stamp, "bash", str(root)], check=True)
    done = subprocess.run(
        [root / "scripts" / "bench", "--quick", "--data", "my task", "--out=/tmp/x", "--only", "heads"],
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
    )
    expected = ["--quick", "--data", f"{here}/my task", "--out", "/tmp/x", "--only", "heads"]
    assert done.stdout.splitlines() == ["scripts/benchmark/bench_main.py", *expected]


def test_bench_tables_prints_the_page(tmp_path, record):
    bench_main.write_record(record, tmp_path / "name")
    again = subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmark" / "bench_tables.py", tmp_path / "name.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout == (tmp_path / "name.md").read_text(encoding="utf-8")


# ---- the other scripts


@pytest.mark.parametrize(
    "script", ["dask_equality", "export_check", "interval_coverage", "make_sample", "million_rows"]
)
def test_help_of_python_scripts(script, tmp_path):
    """Their imports work in a fresh process."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith(f"usage: {script}.py ")
