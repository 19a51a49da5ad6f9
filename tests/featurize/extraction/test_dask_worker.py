"""What a worker must have in common with the client, each missing in turn."""

import dataclasses

import pytest

from featurize._version import __version__
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.extraction.dask_worker import RunRequirements, check_worker, permit_path, versions_here
from featurize.images.augment import ViewRanges
from featurize.images.render import RenderSettings


@pytest.fixture
def terms(tmp_path, stand_in):
    """Terms that this process fulfils."""
    image, folder = tmp_path / "data" / "a.png", tmp_path / "out" / "mean.h5.parts"
    for made in (image.parent, folder):
        made.mkdir(parents=True)
    image.write_bytes(b"12345")
    permit_path(folder, "abc").write_text("abc")
    backbone = get_backbone("mean")
    return RunRequirements(
        token="abc",
        root=image.parent,
        some_files=((image, 5),),
        folders=(folder,),
        versions=versions_here(),
        needed=((backbone, find_weights(backbone, "random")),),
        rendering=RenderSettings(
            size=32, resize="squash", resample="bicubic", max_pixels=9, ranges=ViewRanges(), seed=0
        ),
        most_views=1,
        engines={},
        engine="auto",
        device="auto",
        gpu_memory=None,
        batch_size="auto",
        workers=1,
        image_timeout=60.0,
        strict=False,
    )


def test_who_has_all_takes_part_and_leaves_nothing_behind(terms):
    before = sorted(terms.folders[0].iterdir())
    assert check_worker(terms) == ""
    assert sorted(terms.folders[0].iterdir()) == before


def test_other_packages_and_sources_are_named(terms):
    others = {**terms.versions, "numpy": "1.0", "folio": f"{__version__}, sources 0123"}
    said = check_worker(dataclasses.replace(terms, versions=others))
    assert f"numpy {terms.versions['numpy']} (this run: 1.0)" in said
    assert f"folio {terms.versions['folio']} (this run: {__version__}, sources 0123)" in said


def test_another_file_in_the_place_of_an_image_is_seen(terms):
    terms.some_files[0][0].write_bytes(b"1234567")
    assert f"sees another {terms.some_files[0][0]} than this machine. Mount {terms.root}" in check_worker(
        terms
    )


def test_images_that_are_not_there_are_seen(terms):
    terms.some_files[0][0].unlink()
    assert f"does not see {terms.some_files[0][0]} (No such file or directory)" in check_worker(terms)


@pytest.mark.parametrize("found", [None, "another run"])
def test_another_folder_in_the_place_of_the_parts_is_seen(terms, found):
    permit = permit_path(terms.folders[0], "abc")
    if found is None:
        permit.unlink()
    else:
        permit.write_text(found)
    assert f"see{'s another' if found else ''} {terms.folders[0]}" in check_worker(terms)


def test_other_weights_are_named_by_their_digests(terms):
    (backbone, weights), *_ = terms.needed
    other = dataclasses.replace(weights, sha256="f" * 64)
    said = check_worker(dataclasses.replace(terms, needed=((backbone, other),)))
    assert f"its weights of mean are others (SHA-256 {weights.sha256[:12]}…; this run: ffffffffffff…)" in said
