"""Outcomes on disk: whole or not there at all, never more than fits."""

import json
import os
import threading
import time

import pytest

from classify.memo import Entry, keep_entry, load_entry, make_room

KEY = "0" * 64
ENTRY = Entry(outcome={"scores": [0.1, 1 / 3], "notes": ["é"]}, files={"head": b"\0\n{}", "logs/a": b"log"})


def test_what_was_kept_is_what_is_loaded(tmp_path):
    assert keep_entry(tmp_path / "new" / "folder", KEY, ENTRY)
    found = load_entry(tmp_path / "new" / "folder", KEY)
    assert (found.outcome, found.files) == (ENTRY.outcome, ENTRY.files)
    (file,) = (tmp_path / "new" / "folder").iterdir()
    head, _, body = file.read_bytes().partition(b"\n")
    assert json.loads(head)["outcome"] == ENTRY.outcome  # it is JSON, whoever reads it
    assert body == b"\0\n{}log"


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    keep_entry(tmp_path, KEY, ENTRY)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert load_entry(tmp_path, KEY) is None, position
    file.write_bytes(whole)
    assert load_entry(tmp_path, KEY) is not None


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"[]", b"[" * 100_000, b"{}", b'{"outcome": 1, "files": 2}', b"\xff"]
)
def test_what_is_no_entry_is_none(tmp_path, text):
    (tmp_path / f"{KEY}.memo").write_bytes(text)
    assert load_entry(tmp_path, KEY) is None


def test_a_torn_entry_is_none_and_is_replaced(tmp_path):
    keep_entry(tmp_path, KEY, ENTRY)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert load_entry(tmp_path, KEY) is None
    assert keep_entry(tmp_path, KEY, ENTRY)
    assert load_entry(tmp_path, KEY).files == ENTRY.files


def test_an_entry_is_good_for_its_own_key_only(tmp_path):
    keep_entry(tmp_path, KEY, ENTRY)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f"{'1' * 64}.memo")
    assert load_entry(tmp_path, "1" * 64) is None


def test_a_place_that_cannot_be_written_only_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert not keep_entry(tmp_path / "file", KEY, ENTRY)
    assert load_entry(tmp_path / "file", KEY) is None
    make_room(tmp_path / "file")
    make_room(tmp_path / "nowhere")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_number_is_not_kept(tmp_path):
    assert not keep_entry(tmp_path, KEY, Entry(outcome={"score": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_longest_ago_makes_room(tmp_path):
    for number in range(4):
        keep_entry(tmp_path, f"{number}", Entry(outcome={}, files={"head": bytes(10_000)}))
        os.utime(tmp_path / f"{number}.memo", (number, number))
    assert load_entry(tmp_path, "0") is not None  # used again
    make_room(tmp_path, limit=25_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.memo", "3.memo"]


def test_what_a_killed_run_left_is_removed_and_what_others_write_is_not(tmp_path):
    for name in (".unfinished-old", ".unfinished-new", "mine.txt"):
        (tmp_path / name).write_text("x")
    long_ago = time.time() - 7200
    os.utime(tmp_path / ".unfinished-old", (long_ago, long_ago))
    os.utime(tmp_path / "mine.txt", (long_ago, long_ago))
    make_room(tmp_path, limit=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-new", "mine.txt"]


def test_several_may_write_and_read_at_once(tmp_path):
    found = []

    def work(number):
        for _ in range(30):
            keep_entry(
                tmp_path, KEY, Entry(outcome={"number": number}, files={"head": bytes([number]) * 5000})
            )
            entry = load_entry(tmp_path, KEY)
            found.append(entry is not None and set(entry.files["head"]) == {entry.outcome["number"]})
            make_room(tmp_path)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 120
