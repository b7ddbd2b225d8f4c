"""What the critics on OpenAI-compatible servers share: the probe, asking, keeping what was paid."""

import asyncio
import concurrent.futures
import math
import threading
from collections import Counter
from collections.abc import Sequence

from rewards.calls import CriticError
from rewards.ledger import BudgetReached, Ledger, Record, key_of
from rewards.openai_answer import Answer
from rewards.openai_client import ChatClient
from rewards.openai_form import FORM, FRAME_TOKENS, Call, Form, Question, Verdict
from rewards.openai_options import UNUSED_KEY, Options
from rewards.openai_probe import MOST_LOGPROBS, Settings, check_model, negotiate

SAMPLE = ("The bus was late again.", "The bus was late, again.", "The bus practises being missed.")
"""What the probe asks about: a prompt and two rewrites."""


class Asker:
    """Asks questions of one kind.

    Raises:
        ValueError: from the constructor: a bad rubric or price, a missing key, or a budget of money
            without prices.
    """

    def __init__(self, model: str, options: Options, ledger: Ledger | None = None) -> None:
        self.name = f"openai:{model}"
        self.causes: Counter[str] = Counter()
        """Questions without a verdict, by cause."""
        self._model = model
        self._ledger = ledger
        self._form = Form(model, options)
        budget = None if ledger is None else ledger.budget
        if budget is not None and budget.money is not None and not any(self._form.prices):
            raise ValueError("a budget of money needs prices=FILE, or price_in and price_out")
        replay = ledger is not None and ledger.replay  # asks nobody, so it needs no key
        key = UNUSED_KEY if replay else options.key()
        self._client = ChatClient(options.base_url, model, key, options.limits)
        self._where = f"{self.name} at {options.base_url}"
        self._settings: Settings | None = None
        self._probing = threading.Lock()
        self._masses = [0.0, 0.0]  # number and sum

    def __repr__(self) -> str:
        return f"Asker({self.name!r}, {self._form.options})"

    def close(self) -> None:
        """Close connections; a later question opens them again."""
        self._client.close()

    def metrics(self) -> dict[str, float]:
        """Mean mass that verdict tokens got, and failed questions by cause, since the start."""
        found = {f"critic/failed/{cause}": float(n) for cause, n in self.causes.items()}
        number, total = self._masses
        if number:
            found["critic/mass"] = total / number
        return found

    # ---- the probe

    def probe(self) -> Settings:
        """Find out, once, what the server gives; on replay the ledger says what it gave.

        Raises:
            ValueError: another model answers, the key or the model is refused, or no form of the
                question is accepted. Nothing is spent beyond the probe.
            CriticError: the server cannot be asked now; the next question tries again.
            BudgetReached: nothing may be spent.
            NotRecorded: on replay, the ledger has no probe of this critic.
        """
        with self._probing:
            if self._settings is None:
                self._settings = self._found_settings()
        return self._settings

    def _found_settings(self) -> Settings:
        o = self._form.options
        # Rankings are read as text, and so is what follows a reason.
        by_token = o.question != "listwise" and o.reason != "yes"
        start = Settings(logprobs=MOST_LOGPROBS if by_token else 0, seed=o.seed is not None)
        key = key_of("openai probe", FORM, *self._form.about, o.reason)
        if self._ledger is not None and self._ledger.replay:
            known = self._ledger.find(key)
            return Settings.from_text(known.text if known else "")
        sample = Question(SAMPLE[0], SAMPLE[1:2] if o.question == "pointwise" else SAMPLE[1:])
        longest = self._form.call(sample, start._replace(logprobs=0))
        ticket = self._reserve(longest)

        async def ask(settings: Settings) -> tuple[Answer, int]:
            call = self._form.call(sample, settings)
            async with self._client.slots:
                return await self._client.complete(call.messages, call.options), call.limit

        paid: list[Answer] = []
        outcome, text = key_of(key, "failed"), ""
        try:
            settings = self._client.start(negotiate(ask, self._model, start, paid)).result()
            if settings.logprobs and o.reason == "auto":
                first = self._form.record(paid[-1], self._form.call(sample, settings))
                if first.cause:  # a model that does not begin with its verdict
                    settings = settings._replace(logprobs=0)
            outcome, text = key, settings.to_text()
        except CriticError as error:
            raise CriticError(f"{self._where}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}") from error
        finally:
            costs = [self._form.record(answer, longest) for answer in paid]
            spent = Record(
                1.0 if text else None,
                text,
                sum(c.prompt_tokens for c in costs),
                sum(c.completion_tokens for c in costs),
                math.fsum(c.money for c in costs),
                math.fsum(c.seconds for c in costs),
                "" if text else "probe",
            )
            self._keep(outcome, spent, ticket)
        return settings

    # ---- questions

    def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """Return the verdicts in the order of the questions; equal questions are asked once.

        Whatever stops it (a budget, a refused key), calls in flight end first and are recorded.

        Raises:
            BudgetReached, NotRecorded: of the ledger.
            ValueError, CriticError: of the probe; later, that another model answers or the key is
                refused.
        """
        if not questions:
            return []
        settings = self.probe()
        votes = range(self._form.votes(settings))
        asked = [[self._form.call(q, settings, vote) for vote in votes] for q in questions]
        calls = {call.key: call for own in asked for call in own}
        known = {} if self._ledger is None else self._ledger.find_many(list(calls))
        missing = [call for key, call in calls.items() if key not in known]
        if missing:
            known |= self._answers(missing)
        return [self._verdict([known[call.key] for call in own]) for own in asked]

    def _answers(self, calls: list[Call]) -> dict[str, Record]:
        """Ask; what stops the asking is raised when all calls in flight are kept."""
        halt: list[Exception] = []
        asking = self._client.start(self._answer_all(calls, halt))
        try:
            records = asking.result()
        except KeyboardInterrupt:
            halt.append(InterruptedError("interrupted"))
            concurrent.futures.wait([asking])
            raise
        if halt:
            raise halt[0]
        return records

    async def _answer_all(self, calls: list[Call], halt: list[Exception]) -> dict[str, Record]:
        answered = await asyncio.gather(
            *(self._answer(call, halt) for call in calls), return_exceptions=True
        )
        records: dict[str, Record] = {}
        for call, record in zip(calls, answered, strict=True):
            if isinstance(record, BaseException):
                raise record
            if record is not None:
                records[call.key] = record
        return records

    async def _answer(self, call: Call, halt: list[Exception]) -> Record | None:
        """Ask one question and keep the answer; None once `halt` has a reason to stop."""
        # The file waits for the disk, so it is used from threads, and a question is reserved before
        # its slot is free: otherwise eight answers at once would make the server wait for the disk.
        async with self._client.queue:
            if halt:
                return None
            try:
                ticket = await asyncio.to_thread(self._reserve, call)
            except BudgetReached as reached:
                halt.append(reached)
                return None
            async with self._client.slots:
                if any(not isinstance(reason, BudgetReached) for reason in halt):
                    await asyncio.to_thread(self._release, ticket)
                    return None
                answer = await self._client.complete(call.messages, call.options)
        record = self._form.record(answer, call)
        key = call.key
        try:
            check_model(self._model, answer)
        except ValueError as error:
            halt.append(ValueError(f"{self._where}: {error}"))
            record = record._replace(value=None, cause=answer.cause or "model")
            key = key_of(key, "of another model")  # paid, but no answer to this question
        await asyncio.to_thread(self._keep, key, record, ticket)
        return record

    def _reserve(self, call: Call) -> int | None:
        if self._ledger is None:
            return None
        prompt = call.size + FRAME_TOKENS * len(call.messages)
        price_in, price_out = self._form.prices
        money = prompt * price_in + call.limit * price_out
        return self._ledger.reserve(tokens=prompt + call.limit, money=money)

    def _release(self, ticket: int | None) -> None:
        if self._ledger is not None and ticket is not None:
            self._ledger.release(ticket)

    def _keep(self, key: str, record: Record, ticket: int | None) -> None:
        if self._ledger is not None:
            self._ledger.record(key, self.name, record, ticket=ticket)

    def _verdict(self, records: Sequence[Record]) -> Verdict:
        masses = [r.extra["mass"] for r in records if "mass" in r.extra]
        self._masses[0] += len(masses)
        self._masses[1] += math.fsum(masses)
        value, cause = self._form.verdict(records)
        if value is None:
            self.causes[cause] += 1
        return value
