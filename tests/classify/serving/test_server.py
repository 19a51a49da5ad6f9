"""The server as a process: it grades as `classify predict` does, and ends, refuses and cleans up in order."""

import json
import subprocess
import sys

import pytest


def test_grades_are_those_of_predict(server, coloured, bundle_with_examples, tmp_path):
    files = [
        (f"{grade} {k}.png", coloured.picture(coloured.colour(grade, k)))
        for grade in coloured.CLASSES
        for k in (2, 5)
    ]
    reply = server.grade(*files)
    assert reply.status == 200
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [
            sys.executable,
            coloured.__file__,
            "predict",
            bundle_with_examples,
            "--json",
            *[name for name, _ in files],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert [{k: v for k, v in row.items() if k != "nearest"} for row in reply.json] == said
    assert [row["grade"] for row in said] == ["award", "award", "low", "low", "middle", "middle"]
