"""Requirements that a Dask worker must meet: each is violated in turn."""

import dataclasses

import pytest

from featurize._version import __version__
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights
from featurize.extraction.dask_worker import RunRequirements, check_worker, local_versions, marker_path
from featurize.images.augment import ViewRanges
from featurize.images.render import RenderSettings


@pytest.fixture
def requirements(tmp_path, stand_in):
    """Requirements that this process meets."""
    image, folder = tmp_path / "data" / "a.png", tmp_path / "out" / "mean.h5.parts"
    for path in (image.parent, folder):
        path.mkdir(parents=True)
    image.write_bytes(b"12345")
    marker_path(folder, "abc").write_text("abc")
    backbone = get_backbone("mean")
    return RunRequirements(
        token="abc",
        root=image.parent,
        file_sizes=((image, 5),),
        folders=(folder,),
        versions=local_versions(),
        backbones=((backbone, find_weights(backbone, "random")),),
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


def test_a_worker_that_meets_them_is_usable_and_leaves_no_files(requirements):
    before = sorted(requirements.folders[0].iterdir())
    assert check_worker(requirements) == ""
    assert sorted(requirements.folders[0].iterdir()) == before


def test_different_versions_are_named(requirements):
    others = {**requirements.versions, "numpy": "1.0", "folio": f"{__version__}, sources 0123"}
    reason = check_worker(dataclasses.replace(requirements, versions=others))
    assert f"numpy {requirements.versions['numpy']} (this run: 1.0)" in reason
    assert f"folio {requirements.versions['folio']} (this run: {__version__}, sources 0123)" in reason


def test_a_different_image_file_is_noticed(requirements):
    requirements.file_sizes[0][0].write_bytes(b"1234567")
    assert (
        f"sees another file at {requirements.file_sizes[0][0]} than this machine. Mount {requirements.root}"
        in check_worker(requirements)
    )


def test_missing_images_are_noticed(requirements):
    requirements.file_sizes[0][0].unlink()
    assert f"does not see {requirements.file_sizes[0][0]} (No such file or directory)" in check_worker(
        requirements
    )


@pytest.mark.parametrize("found", [None, "another run"])
def test_a_different_folder_of_parts_is_noticed(requirements, found):
    marker = marker_path(requirements.folders[0], "abc")
    if found is None:
        marker.unlink()
    else:
        marker.write_text(found)
    assert f"see{'s another folder at' if found else ''} {requirements.folders[0]}" in check_worker(
        requirements
    )


def test_different_weights_are_named_by_their_digests(requirements):
    (backbone, weights), *_ = requirements.backbones
    other = dataclasses.replace(weights, sha256="f" * 64)
    reason = check_worker(dataclasses.replace(requirements, backbones=((backbone, other),)))
    assert f"its weights of mean differ (SHA-256 {weights.sha256[:12]}…; this run: ffffffffffff…)" in reason
