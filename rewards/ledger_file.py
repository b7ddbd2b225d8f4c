"""The SQLite file behind a ledger: opened, checked, kept private, set aside when it is damaged.

Write-ahead logging: readers and one writer do not wait for each other, and what was committed is
there after the process is killed. That needs a local disk; network file systems lack the locks.
"""

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

from filelock import FileLock

BUSY_SECONDS = 60.0
"""How long a write waits for another process."""
PRIVATE = 0o600
APPLICATION_ID = 0x50554E43
"""Marks a SQLite file as a ledger, so that another program's data are never touched."""
SCHEMA_VERSION = 1
SIDE_FILES = ("-wal", "-shm")
_HEADER = b"SQLite format 3\x00"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE calls (  -- only ever added to; the first answer of a key stays the answer
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,  -- sha256 of everything that decides the answer
    run, critic,  -- no type: text, or bytes where it has lone surrogates
    at REAL NOT NULL,  -- seconds since 1970
    value TEXT,  -- JSON: a number or a list of numbers; NULL: no verdict
    text,  -- the raw answer
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    money REAL NOT NULL,  -- in the currency of the prices given
    seconds REAL NOT NULL,  -- latency
    cause,  -- of a failure
    extra TEXT NOT NULL  -- JSON: further numbers by name
);
CREATE INDEX calls_by_key ON calls (key);
CREATE TABLE in_flight (  -- calls that began and have not ended
    ticket INTEGER PRIMARY KEY AUTOINCREMENT,
    run, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, money REAL NOT NULL
);
CREATE TABLE found (run, critic, n INTEGER NOT NULL, PRIMARY KEY (run, critic));
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class _DamagedFile(Exception):
    """The file cannot be read as what it was."""


def open_file(path: Path) -> sqlite3.Connection:
    """Open a ledger for writing, made where there is none; a damaged one is set aside first.

    Raises:
        ValueError: a folder, another program's database, a newer ledger, or no permission.
    """
    if path.is_dir():
        raise ValueError(f"ledger {path} is a folder, need a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that begin together make, check and set aside one after the other.
        with FileLock(f"{path}.lock", mode=PRIVATE):
            _make_private(path)
            try:
                return _opened(path)
            except _DamagedFile as damage:
                aside = _set_aside(path)
                print(
                    f"ledger {path} is damaged ({damage}): set aside as {aside.name}, "
                    f"a new one begins",
                    file=sys.stderr,
                )
            _make_private(path)
            return _opened(path)
    except OSError as error:
        raise ValueError(f"ledger {path} cannot be opened: {error}") from error


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open an existing ledger that stays as it is; a damaged one is left where it lies.

    Raises:
        ValueError: no such file, not a ledger, or a damaged one.
    """
    if not path.is_file():
        raise ValueError(f"ledger {path}: there is no such file")
    try:
        connection = _opened(path, make=False)
    except _DamagedFile as damage:
        raise ValueError(f"ledger {path} is damaged: {damage}") from None
    except OSError as error:
        raise ValueError(f"ledger {path} cannot be opened: {error}") from error
    connection.execute("PRAGMA query_only = ON")
    return connection


def _make_private(path: Path) -> None:
    """SQLite gives its side files the mode of the main one, so that one is made first."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
    for file in (path, *_side_files(path)):
        if file.exists() and file.stat().st_mode & 0o777 != PRIVATE:
            file.chmod(PRIVATE)


def _opened(path: Path, *, make: bool = True) -> sqlite3.Connection:
    with path.open("rb") as file:
        header = file.read(len(_HEADER))
    if header and header != _HEADER:  # SQLite itself would drop the write-ahead log
        raise _DamagedFile("it has no SQLite header")
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _check_kind(path, connection, make)
        # Before any further write: a damaged file is kept as it was found.
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _DamagedFile(" ".join(found.split()))
        if make:
            connection.execute("PRAGMA journal_mode = WAL")
        # What record() has returned from survives a power cut too.
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            raise _DamagedFile(str(error)) from error
        raise ValueError(f"ledger {path} cannot be opened: {error}") from error
    except (ValueError, _DamagedFile):
        connection.close()
        raise
    return connection


def _check_kind(path: Path, connection: sqlite3.Connection, make: bool) -> None:
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if make and kind == 0 and tables == 0:
        connection.executescript(_SCHEMA)
        return
    if kind != APPLICATION_ID:
        raise ValueError(f"ledger {path} is not a ledger")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"ledger {path} is of version {version}, this Punchline reads version {SCHEMA_VERSION}"
        )


def _set_aside(path: Path) -> Path:
    """Rename the file and its side files to the first free number; nothing is deleted."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for side in _side_files(path):
        if side.exists():
            side.rename(f"{aside}{side.name.removeprefix(path.name)}")
    path.rename(aside)
    return aside


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDE_FILES]
