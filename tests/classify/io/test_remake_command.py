"""Bundles of earlier versions are refused with a command that makes them again, and that runs."""

import hashlib
import json
import shlex

import click
import pytest

from classify.cli.main import cli
from classify.cli.options import parameter
from classify.errors import BundleError
from classify.io.bundle import load_bundle
from classify.jobs.compare import compare
from classify.jobs.fit import fit


def as_version(bundle, version, **changes):
    """Have a bundle's manifest be one of that version; None takes a field out."""
    path = bundle / "manifest.json"
    manifest = {**json.loads(path.read_text()), "format_version": version, **changes}
    manifest = {key: value for key, value in manifest.items() if value is not None}
    del manifest["manifest_sha256"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**manifest, "manifest_sha256": hashlib.sha256(canonical).hexdigest()}))


def refusal(bundle):
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    said = str(caught.value)
    assert "\n" not in said
    head, _, command = said.partition(". Make the bundle again with: ")
    assert head.endswith("but this Folio reads version 3")
    return command


def parsed(command):
    """Return what click reads from a command; an option that is not there is an error."""
    words = shlex.split(command)
    assert words[0] == "classify"
    context = cli.commands[words[1]].make_context(words[1], words[2:])
    return {key: value for key, value in context.params.items() if value is not None}


@pytest.mark.parametrize(
    ("head", "params", "expected"),
    [
        ("svm-rbf", {"C": 10.0, "gamma_factor": 0.1}, "--param C=10.0 --param gamma_factor=0.1"),
        ("logreg", {"scaling": "l2", "C": 0.5, "max_iter": 500}, "--param max_iter=500"),
        ("lda", {"shrinkage": "auto", "scaling": "l2"}, "--param shrinkage=auto"),
        ("baseline", {}, "--head baseline"),
    ],
)
def test_a_single_bundle_names_a_fit_that_makes_it_again(make_store, tmp_path, head, params, expected):
    store = make_store(counts={"train": 8, "test": 3})
    folder = tmp_path / "my bundle"
    fit(store, head=head, params=params, out=folder, seed=3)
    old = (folder / "manifest.json").read_text()
    as_version(folder, 1)
    command = refusal(folder)
    given = parsed(command)
    assert expected in command
    assert str(given["store"]) == "artifacts/features/posters/efficientnet_lite0.h5"
    # Given the real store, what it says makes the bundle again where it was.
    text = dict(map(parameter, given["params"]))
    fit(
        store,
        head=given["head"],
        params=text,
        out=given["out"],
        overwrite=given["overwrite"],
        seed=given["seed"],
    )
    assert json.loads((folder / "manifest.json").read_text())["params"] == json.loads(old)["params"]


def test_order_weight_and_layers_are_in_the_command(make_store, tmp_path):
    store = make_store(counts={"train": 8, "test": 3}, classes=("award", "low", "middle"))
    order = ("low", "middle", "award")
    done = fit(store, head="ordinal-logistic", params={"C": 1.0, "class_weight": "balanced"}, order=order,
               out=tmp_path / "b")  # fmt: skip
    as_version(done.bundle, 1)
    command = refusal(done.bundle)
    assert "--param class_weight=balanced" in command
    assert parsed(command)["order"] == order
    dense = {"units": [512, 64], "scaling": "standardise", "class_weight": None}
    as_version(done.bundle, 1, head="dense", params=dense)
    assert "--param units=512,64" in refusal(done.bundle)
    parsed(refusal(done.bundle))


def test_a_bundle_of_a_run_names_the_command_of_the_run(make_store, tmp_path):
    stores = [make_store(name, counts={"train": 8, "test": 3}) for name in ("a", "b")]
    heads = ("logreg", "nearest-mean", "ensemble")
    run = compare(stores, heads=heads, fuse=True, out=tmp_path / "run", jobs=1)
    again = f"classify compare --overwrite {run.record['made']['command'].removeprefix('classify compare ')}"
    fused, ensemble = run.folder / "bundles" / "a+b__logreg", run.folder / "bundles" / "ensemble"
    for bundle in (fused, ensemble, ensemble / "member_1"):
        as_version(bundle, 2)
        assert refusal(bundle) == again
    assert parsed(again)["stores"] == tuple(stores)
    # Away from its run, a bundle tells less.
    elsewhere = tmp_path / "elsewhere"
    fused.rename(elsewhere)
    command = refusal(elsewhere)
    a, b = (f"artifacts/features/posters/{name}.h5" for name in "ab")
    assert command == f"classify compare {a} {b} --fuse --heads logreg"
    parsed(command)
    elsewhere = tmp_path / "voted"
    ensemble.rename(elsewhere)
    parsed(refusal(elsewhere))


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "forest"},
        {"head": ["logreg"]},
        {"head": None},
        {"store": None},
        {"store": 3},
        {"parts": [3]},
        {"members": 3, "store": None},
    ],
)
def test_a_manifest_without_fields_gives_the_general_command(make_store, tmp_path, changes):
    folder = fit(make_store(counts={"train": 8}), head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    as_version(folder, 1, **changes)
    assert refusal(folder).startswith("classify compare ")
    parsed(refusal(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"params": 3, "classes": 3, "ordered": 3, "join": 3, "seed": "x", "dataset": 3},
        {"params": {"C": None, "unknown": 3, "scaling": {"a": 1}}, "ordered": True, "classes": [1, 2]},
        {"dataset": "a b\x1b[31m; rm -rf ~"},
    ],
)
def test_any_manifest_gives_one_line_that_click_parses(make_store, tmp_path, changes):
    folder = fit(make_store(counts={"train": 8}), head="logreg", params={"C": 1.0}, out=tmp_path / "b").bundle
    as_version(folder, 1, **changes)
    try:
        assert parsed(refusal(folder))["head"] == "logreg"
    except click.UsageError as error:
        raise AssertionError(str(error)) from None
