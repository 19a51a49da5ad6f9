"""One writer at a time."""

import json
import os
import socket
import subprocess
import sys

import pytest
from filelock import FileLock

from featurize.base.files import write_lock
from featurize.errors import StoreError


def test_the_note_says_who_holds_it_and_goes_with_the_lock(tmp_path):
    store = tmp_path / "deep" / "x.h5"
    with write_lock(store):
        holder = json.loads((store.parent / ".x.h5.lock.json").read_text())
        assert (holder["process"], holder["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(Exception, match="could not be acquired"):
            FileLock(store.parent / ".x.h5.lock", timeout=0).acquire()
    assert not (store.parent / ".x.h5.lock.json").exists()
    with write_lock(store):
        pass


def test_a_second_writer_is_refused_and_told_by_whom(tmp_path):
    store = tmp_path / "x.h5"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom featurize.base.files import writing\n"
        "with writing(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
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
    with write_lock(store):  # the system took the lock back from the dead
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cannot write here.*run the same command again"),
        write_lock(tmp_path / "file" / "x.h5"),
    ):
        pass
