"""Write lock and atomic writes."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
from filelock import FileLock

from featurize.base.files import atomic_path, write_atomic, write_lock
from featurize.errors import StoreError


def test_the_note_names_the_holder_while_the_lock_is_held(tmp_path):
    store = tmp_path / "deep" / "x.h5"
    with write_lock(store):
        holder = json.loads((store.parent / ".x.h5.lock.json").read_text())
        assert (holder["process"], holder["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(Exception, match="could not be acquired"):
            FileLock(store.parent / ".x.h5.lock", timeout=0).acquire()
    assert not (store.parent / ".x.h5.lock.json").exists()
    with write_lock(store):
        pass


def test_a_second_writer_is_refused_and_the_error_names_the_first(tmp_path):
    store = tmp_path / "x.h5"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom featurize.base.files import write_lock\n"
        "with write_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with (
            pytest.raises(StoreError, match=rf"x\.h5: process {other.pid} on .* \(since 20"),
            write_lock(store),
        ):
            pass
        other.kill()
        other.wait()
    with write_lock(store):  # the operating system released the lock of the killed process
        pass


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cannot write to this folder.*run the same command again"),
        write_lock(tmp_path / "file" / "x.h5"),
    ):
        pass


def test_an_atomic_write_replaces_a_file_completely_or_not_at_all(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("part")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_text() == "old"
    write_atomic(path, "naïve")
    assert path.read_bytes() == b"na\xc3\xafve"
    assert os.listdir(tmp_path) == ["grades.csv"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_an_atomically_written_file_has_the_usual_mode(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_atomic(tmp_path / "written", "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(ordinary.stat().st_mode)}
