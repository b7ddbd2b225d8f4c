"""Every call to a critic, kept: what it answered, what it cost, why it failed.

A verdict is found by the hash of all that decides it, so it is paid for once, by any run that
shares the file. Budgets are checked before a call, calls still in flight counted in, across the
threads and processes of a run. A run replays from the ledger alone.

The questions themselves are not stored, only their hash; of keys and headers nothing is.
"""

import hashlib
import json
import math
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from rewards.ledger_file import open_file, open_to_read

NO_VERDICT = "no verdict"
"""Cause of a failure that came without one."""
_CHUNK = 500
"""Keys a query; SQLite allows 32,766 variables."""
_SLACK = 1e-9
"""Relative; sums of prices such as 0.1 + 0.2 may fill a budget of 0.3 to the end."""
_SECRETS = re.compile(
    r"""(?ix) ://[^/\s]*@  # credentials of an address
    | \bsk-[\w*-]{8,}
    | \bbearer\s+(?=\S*\d)[\w.~+/=-]{16,}
    | \b(?:authorization|api[_-]?key)["']?\s*[:=]\s*["']?(?:(?:bearer|basic)\s+)?\S+"""
)
_ROW = "key, run, value, text, prompt_tokens, completion_tokens, money, seconds, cause, extra"


class Record(NamedTuple):
    """One finished call, answered or failed."""

    value: float | list[float] | None  # the verdict; None: there is none
    text: str = ""  # the raw answer
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0  # in the currency of the prices given
    seconds: float = 0.0  # latency
    cause: str = ""  # of a failure
    extra: Mapping[str, float] = MappingProxyType({})  # further numbers by name


@dataclass(frozen=True)
class Budget:
    """What a run may spend in all, resumed or not; None: no limit."""

    requests: int | None = None
    tokens: int | None = None
    """Prompt and completion together."""
    money: float | None = None
    """In the currency of the prices given."""

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "money"):
            limit = getattr(self, name)
            if limit is not None and not (limit >= 0 and math.isfinite(limit)):
                raise ValueError(f"the budget of {name} is {limit}, need a finite number >= 0")


UNLIMITED = Budget()


class Spent(NamedTuple):
    """What finished calls cost, failed ones too."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class BudgetReached(RuntimeError):
    """The next call would pass the budget; it was not made."""

    def __init__(self, message: str, spent: Spent) -> None:
        super().__init__(message)
        self.spent = spent


class NotRecorded(RuntimeError):
    """A replay came to a question that the ledger has no answer for."""


def key_of(*parts: object) -> str:
    """Hash everything that decides an answer: critic, parameters, rubric, order, texts.

    sha256 of the parts as canonical JSON: mappings by sorted names, lists and tuples alike. Lone
    surrogates count as they are.

    Raises:
        ValueError: a part is no plain value (text, finite number, bool, None, list, mapping).
    """
    try:
        text = json.dumps(
            parts, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"a ledger key is made of plain finite values: {error}") from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Ledger:
    """A file of calls, shared by threads and processes.

    Args:
        path: made where there is none; mode 0600. A damaged file is set aside with a message.
        run: whose calls these are. Its failures are repeated to it when it is resumed, and what it
            spent before counts. Without a name, failures are asked again and budgets count all.
        budget: what the run may spend.
        replay: answer from the file alone; the file stays as it is. With the name of a recorded
            run its own answers come first, so that it repeats itself.

    Raises:
        ValueError: not a ledger, no permission, or a replay without a sound file.
    """

    def __init__(
        self, path: Path, *, run: str = "", budget: Budget = UNLIMITED, replay: bool = False
    ) -> None:
        self.path = path
        self.run = run
        self.budget = budget
        self.replay = replay
        self._lock = threading.RLock()
        self._connection = open_to_read(path) if replay else open_file(path)
        self._run = _to_sql(run)
        self._seen = 0  # id of the last call that is summed up below
        self._spent = Spent()
        self._causes: Counter[str] = Counter()
        self._hits = self._asked = 0
        self._unsaved_hits: Counter[str] = Counter()  # by critic; written with the next record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- looking up

    def find(self, key: str) -> Record | None:
        """What is known about one key, as `find_many`."""
        return self.find_many([key]).get(key)

    def find_many(self, keys: Sequence[str]) -> dict[str, Record]:
        """What is known: this run's own first answer, verdict or failure, else anyone's verdict.

        On replay also anyone's failure. Earlier answers go before later ones, so that asking
        twice gives one answer.

        Raises:
            NotRecorded: on replay, if there is a key without an answer.
        """
        best: dict[str, tuple[int, str, Record]] = {}  # rank, critic, record
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT critic, {_ROW} FROM calls WHERE key IN ({marks}) ORDER BY id"
            with self._lock:
                rows = self._connection.execute(query, chunk).fetchall()
            for critic, key, run, value, *rest in rows:
                mine = bool(self.run) and run == self._run
                if value is None and not mine and not self.replay:
                    continue
                rank = 0 if mine else 1 if value is not None else 2
                if key not in best or rank < best[key][0]:
                    best[key] = rank, critic, _record(value, *rest)
        missing = sum(key not in best for key in keys)
        if self.replay and missing:
            raise NotRecorded(
                f"replay: the ledger {self.path} has no answer to {missing} of {len(keys)} "
                f"questions"
            )
        with self._lock:
            self._hits += len(best)
            self._unsaved_hits.update(_from_sql(critic) for _, critic, _ in best.values())
        return {key: record for key, (_, _, record) in best.items()}

    # ---- calling

    def reserve(self, *, requests: int = 1, tokens: int = 0, money: float = 0.0) -> int:
        """Count a call as in flight before it is made.

        Args:
            requests: how many records it will bring.
            tokens: the most it can take, prompt and completion.
            money: the most it can cost.

        Returns:
            A ticket for `record` or `release`. A ticket that a killed process leaves stays
            counted: its call may have been paid for.

        Raises:
            BudgetReached: with what is spent and in flight it would pass the budget, or nothing is
                left of one. Nothing was reserved.
            NotRecorded: on replay nothing is asked.
            ValueError: a negative or infinite amount.
        """
        if self.replay:
            raise NotRecorded(f"replay: the ledger {self.path} answers, no critic is asked")
        asked = {"requests": requests, "tokens": tokens, "money": money}
        _check_amounts("reserve", asked)
        # A reservation is of use only while others run beside it: no need to wait for the disk.
        with self._transaction(durable=False) as connection:
            flying = self._in_flight(connection)
            spent = self.spent()
            for name, amount in asked.items():
                limit = getattr(self.budget, name)
                used = getattr(spent, name) + flying[name]
                full = limit is not None and used >= limit > 0
                if limit is not None and (full or used + amount > limit * (1 + _SLACK)):
                    raise BudgetReached(
                        f"the budget of {_figure(limit)} {name} is reached: "
                        f"{_figure(getattr(spent, name))} spent, {_figure(flying[name])} in "
                        f"flight, the next call takes up to {_figure(amount)}",
                        spent,
                    )
            inserted = connection.execute(
                "INSERT INTO in_flight (run, requests, tokens, money) VALUES (?, ?, ?, ?)",
                (self._run, requests, tokens, money),
            )
            return int(inserted.lastrowid or 0)

    def release(self, ticket: int) -> None:
        """Give a reservation back: the call never happened."""
        with self._transaction(durable=False) as connection:
            connection.execute("DELETE FROM in_flight WHERE ticket = ?", (ticket,))

    def record(self, key: str, critic: str, record: Record, *, ticket: int | None = None) -> None:
        """Keep one finished call, answered or failed; on disk when this returns.

        Raises:
            ValueError: a verdict that is not finite, a negative cost, or a replay.
        """
        self.record_many([(key, record)], critic, ticket=ticket)

    def record_many(
        self, records: Iterable[tuple[str, Record]], critic: str, *, ticket: int | None = None
    ) -> None:
        """Keep several calls (key, record) in their order, all or none, as `record`."""
        if self.replay:
            raise ValueError(f"replay: the ledger {self.path} takes no new records")
        name = _to_sql(_without_secrets(critic))
        rows = [(key, self._run, name, time.time(), *_columns(record)) for key, record in records]
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT INTO calls (critic, at, {_ROW}) "
                "VALUES (?3, ?4, ?1, ?2, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                rows,
            )
            if ticket is not None:
                connection.execute("DELETE FROM in_flight WHERE ticket = ?", (ticket,))
            self._save_hits(connection)
            self._asked += len(rows)

    # ---- accounts

    def spent(self) -> Spent:
        """What this run's finished calls cost so far, of all its processes and lives.

        Without a run's name: what all runs' calls cost.
        """
        with self._lock:
            rows = self._connection.execute(
                "SELECT CASE WHEN value IS NULL THEN cause END, count(*), sum(prompt_tokens), "
                "sum(completion_tokens), sum(money), max(id) FROM calls "
                "WHERE id > ?1 AND (?2 = '' OR run = ?2) GROUP BY 1",
                (self._seen, self._run),
            ).fetchall()
            for cause, *costs, last in rows:
                self._spent = Spent(*(a + b for a, b in zip(self._spent, costs, strict=True)))
                if cause is not None:
                    self._causes[_from_sql(cause)] += costs[0]
                self._seen = max(self._seen, last)
            return self._spent

    def metrics(self) -> dict[str, float]:
        """The run's spend and failures so far, and this process's share of answers found."""
        with self._lock:
            spent = self.spent()
            answers = self._hits + self._asked
            return {
                "critic/requests": float(spent.requests),
                "critic/tokens": float(spent.tokens),
                "critic/money": spent.money,
                "critic/cache_hit_rate": self._hits / answers if answers else 0.0,
                **{f"critic/failed/{cause}": float(n) for cause, n in self._causes.items()},
            }

    def close(self) -> None:
        """Close the file; calls still in flight stay counted against the budget."""
        with self._lock:
            if self._unsaved_hits and not self.replay:
                with self._transaction(durable=False) as connection:
                    self._save_hits(connection)
            self._connection.close()

    # ---- inside

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One write at a time, of all threads and processes; all of it or nothing."""
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _in_flight(self, connection: sqlite3.Connection) -> dict[str, float]:
        row = connection.execute(
            "SELECT total(requests), total(tokens), total(money) FROM in_flight "
            "WHERE ?1 = '' OR run = ?1",
            (self._run,),
        ).fetchone()
        return dict(zip(("requests", "tokens", "money"), row, strict=True))

    def _save_hits(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO found VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            [(self._run, _to_sql(critic), n) for critic, n in self._unsaved_hits.items()],
        )
        self._unsaved_hits.clear()


def _columns(record: Record) -> tuple[Any, ...]:
    costs = {
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "money": record.money,
        "seconds": record.seconds,
    }
    _check_amounts("record", costs)
    cause = record.cause or (NO_VERDICT if record.value is None else "")
    return (
        _value_to_sql(record.value),
        _to_sql(_without_secrets(record.text)),
        *costs.values(),
        _to_sql(_without_secrets(cause)),
        json.dumps({name: float(x) for name, x in record.extra.items()}),
    )


def _value_to_sql(value: float | list[float] | None) -> str | None:
    if value is None:
        return None
    try:
        numbers = [float(x) for x in value] if isinstance(value, list) else float(value)
        return json.dumps(numbers, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"a verdict is {value}, need finite numbers, or None and a cause"
        ) from None


def _record(value: str | None, text: str | bytes, *rest: Any) -> Record:
    prompt_tokens, completion_tokens, money, seconds, cause, extra = rest
    return Record(
        None if value is None else json.loads(value),
        _from_sql(text),
        prompt_tokens,
        completion_tokens,
        money,
        seconds,
        _from_sql(cause),
        json.loads(extra),
    )


def _figure(amount: float) -> str:
    return f"{amount:,.12g}"


def _check_amounts(what: str, amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        if not (amount >= 0 and math.isfinite(amount)):
            raise ValueError(f"{what}: {name} is {amount}, need a finite number >= 0")


def _without_secrets(text: str) -> str:
    """Servers quote the key they refuse; it must not get into the file."""
    return _SECRETS.sub("[secret]", text)


def _to_sql(text: str) -> str | bytes:
    """SQLite's text is UTF-8, which has no lone surrogates: such text is kept as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _from_sql(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")
