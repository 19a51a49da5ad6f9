"""Package versions, digests of sources, child processes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurize.base.project import installed_versions, sources_digest, start_module


def test_versions_of_installed_packages_only():
    assert installed_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


def test_the_digest_covers_paths_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_bytes(b"1")
    (tmp_path / "b.py").write_bytes(b"2")
    (tmp_path / "c.py").write_bytes(b"3")
    expected = hashlib.sha256(b"a/x.py\x001" + b"b.py\x002").hexdigest()
    assert sources_digest(tmp_path, ("a/*.py", "b.py")) == expected
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        sources_digest(tmp_path, ("missing.py",))


def run_in_child(code, **options):
    """Return what a line of Python prints in a child process; the module timeit executes it."""
    with start_module("timeit", "-n", "1", "-r", "1", code, **options) as child:
        out, _ = child.communicate()
    assert child.returncode == 0
    return out.decode().splitlines()[0]


def test_a_child_has_these_sources_and_a_safe_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = run_in_child("import featurize.errors; print(featurize.errors.__file__)")
    assert Path(file) == Path(sys.modules["featurize.errors"].__file__)
    assert run_in_child("import sys; print(sys.flags.safe_path)") == "True"


def test_a_child_has_the_environment_and_more(monkeypatch):
    monkeypatch.setenv("FOLIO_TEST_A", "a")
    code = "import os; print(os.environ['FOLIO_TEST_A'] + os.environ['FOLIO_TEST_B'])"
    assert run_in_child(code, environment={"FOLIO_TEST_B": "b"}, stdin=subprocess.DEVNULL) == "ab"


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_a_child_is_in_its_own_process_group():
    assert int(run_in_child("import os; print(os.getpgid(0))")) != os.getpgid(0)
