"""The SQLite file: what survives, and what happens to turns when it fails."""

import logging
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from claude_proxy.storage.store import FILE_NAME, MIGRATIONS, Store

SESSION = "INSERT INTO sessions VALUES (?, NULL, 'sonnet', 'chat', 1, 0, 0)"


def ids(store: Store) -> list[str]:
    """The sessions in the store."""
    return [row[0] for row in store.read("SELECT external_id FROM sessions ORDER BY external_id")]


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """A row outlives the store that wrote it."""
    first = Store(tmp_path)
    assert first.write([(SESSION, ("a",))])
    first.close()
    second = Store(tmp_path)
    assert ids(second) == ["a"]
    second.close()


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """A store that is never closed has lost nothing that `write` had confirmed."""
    first = Store(tmp_path)
    assert first.write([(SESSION, ("a",))])
    second = Store(tmp_path)
    assert ids(second) == ["a"]
    first.close()
    second.close()


def test_the_file_and_its_folder_are_its_owners_alone(tmp_path: Path) -> None:
    """Mode 0600 and 0700, whatever the umask."""
    before = os.umask(0)
    try:
        store = Store(tmp_path / "state")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600
    store.close()


def test_a_failing_statement_undoes_its_transaction(tmp_path: Path) -> None:
    """All statements or none."""
    store = Store(tmp_path)
    assert not store.write([(SESSION, ("a",)), ("INSERT INTO nowhere VALUES (1)", ())])
    assert ids(store) == []
    store.close()


def test_a_corrupt_file_is_set_aside_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old bytes are kept under another name; the new file works."""
    (tmp_path / FILE_NAME).write_bytes(b"this was a database once" * 100)
    store = Store(tmp_path)
    (aside,) = tmp_path.glob(f"{FILE_NAME}.corrupt-*")
    assert aside.read_bytes().startswith(b"this was a database")
    assert store.write([(SESSION, ("a",))]) and ids(store) == ["a"]
    assert "corrupt" in caplog.text
    store.close()


def test_a_damaged_page_counts_as_corrupt(tmp_path: Path) -> None:
    """A file that opens but fails its check is set aside too."""
    first = Store(tmp_path)
    first.write([(SESSION, (f"session-{number}",)) for number in range(2000)])
    first.read("PRAGMA wal_checkpoint(TRUNCATE)")
    first.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    second = Store(tmp_path)
    assert list(tmp_path.glob(f"{FILE_NAME}.corrupt-*"))
    assert ids(second) == []
    second.close()


def test_a_full_disk_is_told_once_and_fails_no_caller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`write` says False, the log says why, reading goes on."""
    store = Store(tmp_path)
    assert store.write([(SESSION, ("a",))])
    (pages,) = store.read("PRAGMA page_count")[0]
    store.read(f"PRAGMA max_page_count = {pages}")
    with caplog.at_level(logging.ERROR):
        for number in range(2000):
            if not store.write([(SESSION, (f"{number:0500}",))]):
                break
        assert not store.write([(SESSION, ("x" * 100_000,))])
    assert ids(store)[-1] == "a"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "full" in caplog.text
    store.close()


def test_a_folder_that_cannot_be_made_leaves_a_store_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Turns go on; the log says that nothing is kept."""
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "state")
    assert store.path is None
    assert store.write([(SESSION, ("a",))]) and ids(store) == ["a"]
    assert "nothing is kept" in caplog.text
    store.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An older program does not touch what it does not know."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    store = Store(tmp_path)
    assert store.path is None and "newer" in caplog.text
    store.close()


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_every_older_version_is_migrated(tmp_path: Path, version: int) -> None:
    """A file of any released version becomes the newest, and can be written."""
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        for number, script in enumerate(MIGRATIONS[:version], start=1):
            connection.executescript(f"{script} PRAGMA user_version = {number};")
    connection.close()
    store = Store(tmp_path)
    assert store.read("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert store.write([(SESSION, ("a",))])
    store.close()


def test_two_stores_on_one_file_write_side_by_side(tmp_path: Path) -> None:
    """Nothing is lost and nothing fails when two proxies share a state folder."""
    stores = [Store(tmp_path), Store(tmp_path)]
    results: list[bool] = []

    def write(store: Store, name: str) -> None:
        results.extend(store.write([(SESSION, (f"{name}-{number}",))]) for number in range(100))

    threads = [threading.Thread(target=write, args=(store, name)) for store, name in zip(stores, "ab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results) and len(ids(stores[0])) == 200
    for store in stores:
        store.close()


def test_a_closed_store_fails_quietly(tmp_path: Path) -> None:
    """A turn that ends after the store has closed is not remembered, and not failed."""
    store = Store(tmp_path)
    store.close()
    assert not store.write([(SESSION, ("a",))])
    assert store.read("SELECT 1") == []


def test_what_was_erased_is_in_no_file(tmp_path: Path) -> None:
    """Neither in the database nor in its write-ahead log."""
    store = Store(tmp_path)
    store.write([(SESSION, ("a",)), ("INSERT INTO history VALUES ('a', 1, ?)", (b"a secret of the user",))])
    assert store.erase([("DELETE FROM sessions WHERE external_id = 'a'", ())])
    assert [path.name for path in tmp_path.iterdir() if b"a secret" in path.read_bytes()] == []
    assert store.read("SELECT count(*) FROM history") == [(0,)]
    store.close()
