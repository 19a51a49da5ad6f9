"""Upload folder: private, deleted at the end; the next server deletes the folder of a killed one."""

import os
import subprocess
import sys

import pytest

from classify.deploy.serve.uploads import LOCK, PREFIX, private_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_folder_is_private_and_deleted(temporary):
    with private_folder() as folder:
        (folder / "upload").write_text("x")
        outer = folder.parent
        assert outer.parent == temporary
        if os.name != "nt":
            assert outer.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_only_the_folder_of_a_killed_server_is_deleted(temporary):
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from classify.deploy.serve.uploads import private_folder\n"
        "with private_folder() as folder:\n"
        "    (folder / 'upload').write_text('secret'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(temporary)], check=False)
    (left,) = temporary.iterdir()
    assert (left / "files" / "upload").read_text() == "secret"
    others = temporary / f"{PREFIX}of another program"
    others.mkdir()
    (others / "precious").write_text("x")
    target = temporary / "elsewhere"
    target.mkdir()
    (target / LOCK).write_text("")
    (target / "files").mkdir()
    (temporary / f"{PREFIX}link").symlink_to(target, target_is_directory=True)
    with private_folder() as first, private_folder() as second:
        assert not left.exists()
        assert first.is_dir()  # in use
        assert second.is_dir()
        assert (others / "precious").exists()
        assert (target / "files").is_dir()
