"""Drives the outbox: one thread carries out the commands of the native state machine, a few wait for answers."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Optional, Sequence, Union

from . import _native
from ._errors import Expired, OutboxRefused, Refused, SlackwaterError, VerificationFailed
from ._http import Came, Call, Transport
from ._storage import Storage
from .types import Accepted, Entry, read

_log = logging.getLogger("slackwater")

#: Called on the outbox's thread once an outcome is known.
OnOutcome = Callable[["Ticket"], None]


def now_ms() -> int:
    """Current time, Unix ms."""
    return time.time_ns() // 1_000_000


def entropy() -> int:
    """64 random bits, used to spread retries; not for secrets."""
    return random.getrandbits(64)


class Ticket:
    """A request in the outbox. It is kept until its outcome is taken: by :meth:`result`, ``await``, or
    ``on_outcome``."""

    def __init__(self, key: str, id: Optional[str], sender: "Sender") -> None:
        #: Idempotency key.
        self.key = key
        #: The request's id; ``None`` if only the relayer's answer will tell it.
        self.id = id
        self._sender = sender
        self._future: Future[Accepted] = Future()
        self._on_outcome: list[OnOutcome] = []

    def __repr__(self) -> str:
        return f"Ticket(key={self.key!r}, done={self.done()})"

    def done(self) -> bool:
        """True once the outcome is known."""
        return self._future.done()

    def result(self, timeout: Optional[float] = None) -> Accepted:
        """Waits for the relayer's acceptance, and takes it. Raises the reason if there is none. After a
        ``TimeoutError`` the request stays in the outbox."""
        try:
            return self._future.result(timeout)
        finally:
            if self._future.done():
                self.acknowledge()

    def acknowledge(self) -> None:
        """Forgets the entry, because its outcome was taken. Without effect before there is an outcome."""
        self._sender.acknowledge(self.key)

    def withdraw(self) -> bool:
        """Withdraws the request if it was certainly never sent. Returns false otherwise: cancel it at the relayer."""
        return self._sender.withdraw(self)


class Sender:
    """The outbox with its transport and storage. Threads start with the first request."""

    def __init__(
        self,
        transport: Transport,
        storage: Storage,
        *,
        relayer: Union[None, str, Sequence[str]],
        on_outcome: Optional[OnOutcome],
        max_calls: int = 4,
        **limits: Any,
    ) -> None:
        self._transport, self._storage = transport, storage
        self._default_on_outcome = on_outcome
        self._max_calls = max_calls
        try:
            self._outbox = _native.Outbox(url=transport.url, relayer=relayer, max_calls=max_calls, **limits)
        except BaseException:
            storage.close()
            raise
        self._tickets: dict[str, Ticket] = {}
        self._answers: deque[tuple[int, Came]] = deque()
        # Guards the state machine and everything above. No slow operation runs under it.
        self._wake = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._is_closed = False
        records = list(storage.load())
        self.damaged, foreign = self._outbox.load(now_ms(), records)
        if foreign:
            storage.close()
            raise OutboxRefused(
                "outbox_of_other_relayer",
                f"the outbox holds {len(foreign)} entries for the relayer at {foreign[0]}: open it for that one until it is "
                "empty, pin with `relayer` an identity that both addresses share, or give this one a file of its own",
            )
        if records:
            for entry in self.entries():
                self._tickets[entry.key] = Ticket(entry.key, None, self)
            with self._wake:
                self._start()

    def entries(self) -> list[Entry]:
        """All entries, in order of arrival."""
        with self._wake:
            return [read(Entry, entry) for entry in json.loads(self._outbox.entries())]

    def tickets(self) -> list[Ticket]:
        """Tickets of all entries that were not acknowledged, including those of earlier processes."""
        with self._wake:
            return list(self._tickets.values())

    def enqueue(self, submissions: Iterable[_native.Submission], on_outcome: Optional[OnOutcome]) -> list[Ticket]:
        """Adds requests, in order. Does not block."""
        items = list(submissions)
        tickets: list[Ticket] = []
        with self._wake:
            if self._is_closed:
                raise OutboxRefused("outbox_closed", "the client is closed")
            try:
                for submission in items:
                    key = self._outbox.enqueue(now_ms(), submission)
                    ticket = self._tickets.get(key)
                    if ticket is None:
                        ticket = Ticket(key, submission.id, self)
                        self._tickets[key] = ticket
                    if on_outcome is not None and not ticket.done():
                        ticket._on_outcome.append(on_outcome)
                    tickets.append(ticket)
            finally:
                self._start()
                self._wake.notify()
        return tickets

    def sign(
        self,
        domain: _native.ForwarderDomain,
        sender: str,
        to: str,
        read_nonce: Callable[[], int],
        signer: Callable[[_native.UnsignedForward], _native.Forward],
        **more: Any,
    ) -> _native.Forward:
        """Has a request signed, which holds its nonce from now on. Nothing slow is done under the lock."""
        on_chain, is_named = None, more["nonce"] is not None
        while True:
            with self._wake:
                now = now_ms()
                if is_named or on_chain is not None or not self._outbox.is_unread(now, domain, sender):
                    unsigned = self._outbox.assign(now, domain, sender, to, on_chain=on_chain, **more)
                    break
            on_chain = read_nonce()
        try:
            forward = signer(unsigned)
            with self._wake:
                if not self._outbox.signed(now_ms(), unsigned.id) and not is_named:
                    raise SlackwaterError("nonce_conflict", "the request has lost its nonce to another one")
        except BaseException:
            self.free(unsigned.id)
            raise
        return forward

    def free(self, id: str) -> None:
        """Frees the nonce of a request that will not be submitted."""
        with self._wake:
            self._outbox.free_nonce(id)

    def told(self, id: str, status: str) -> None:
        """Passes in where an accepted request stands."""
        with self._wake:
            self._outbox.told(now_ms(), id, status)
            self._wake.notify()

    def acknowledge(self, key: str) -> None:
        """Forgets an entry whose outcome was taken."""
        with self._wake:
            if self._outbox.acknowledge(key):
                self._tickets.pop(key, None)
                self._wake.notify()

    def withdraw(self, ticket: Ticket) -> bool:
        """Withdraws a request that was never sent; false if it may have been."""
        with self._wake:
            is_gone = self._outbox.withdraw(now_ms(), ticket.key)
            if is_gone:
                self._tickets.pop(ticket.key, None)
                self._wake.notify()
        if is_gone:
            ticket._future.cancel()
        return is_gone

    def _start(self) -> None:
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name="slackwater-outbox", daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> None:
        """Stops. Open entries stay in storage for the next process; without storage they are lost."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        elif thread is None:
            self._storage.close()
        with self._wake:
            left = [ticket for ticket in self._tickets.values() if not ticket.done()]
        for ticket in left:
            ticket._future.set_exception(OutboxRefused("outbox_closed", "the client was closed before it ended"))

    def _run(self) -> None:
        pool = ThreadPoolExecutor(self._max_calls, "slackwater-send")
        try:
            while self._turn(pool):
                pass
        except BaseException:
            _log.exception("the outbox stopped")
            raise
        finally:
            pool.shutdown(wait=False)
            self._storage.close()

    def _turn(self, pool: ThreadPoolExecutor) -> bool:
        """Carries out all due work, then waits. Returns false at the end."""
        with self._wake:
            while self._answers:
                send, came = self._answers.popleft()
                self._outbox.answered(now_ms(), send, came, entropy())
            at = self._outbox.next_timeout()
            if at is not None and at <= now_ms():
                self._outbox.timeout(now_ms())
            commands = []
            while (command := self._outbox.next_command()) is not None:
                commands.append(command)
            if not commands:
                if self._is_closed:
                    return False
                if not self._answers:
                    self._wake.wait(self._pause())
                return True
        self._store(commands)
        for name, key, number, text, call in commands:
            if name == "send" and call is not None:
                pool.submit(self._send, number, call)
            elif name == "report" and key is not None and text is not None:
                self._report(key, json.loads(text))
        return True

    def _pause(self) -> Optional[float]:
        at = self._outbox.next_timeout()
        return None if at is None else max(0.0, (at - now_ms()) / 1_000) + 0.001

    def _store(self, commands: list[tuple[str, Optional[str], int, Optional[str], Optional[Call]]]) -> None:
        # The last command for each key counts; one transaction for all.
        last: dict[str, Optional[str]] = {}
        stores: list[tuple[str, int]] = []
        for name, key, revision, record, _ in commands:
            if key is not None and name in ("store", "remove"):
                last[key] = record
                if name == "store":
                    stores.append((key, revision))
        if not last:
            return
        put = [(key, record) for key, record in last.items() if record is not None]
        remove = [key for key, record in last.items() if record is None]
        try:
            self._storage.apply(put, remove)
        except Exception as error:
            _log.error("the outbox can't be stored, and is tried again: %s", type(error).__name__)
            with self._wake:
                for key, revision in stores:
                    self._outbox.store_failed(now_ms(), key, revision, entropy())
            return
        with self._wake:
            for key, revision in stores:
                self._outbox.stored(now_ms(), key, revision)

    def _send(self, send: int, call: Call) -> None:
        try:
            came = self._transport.send(call)
        except BaseException as error:
            came = ("broken", type(error).__name__)
        with self._wake:
            self._answers.append((send, came))
            self._wake.notify()

    def _report(self, key: str, outcome: dict[str, Any]) -> None:
        with self._wake:
            ticket = self._tickets.get(key)
        if ticket is None or ticket.done():
            return
        try:
            accepted = self._accepted(outcome)
        except SlackwaterError as error:
            ticket._future.set_exception(error)
        else:
            ticket._future.set_result(accepted)
        calls = ticket._on_outcome or ([self._default_on_outcome] if self._default_on_outcome else [])
        for on_outcome in calls:
            try:
                on_outcome(ticket)
            except Exception:
                _log.exception("on_outcome failed; the outcome is kept")
                return
        if calls:
            ticket.acknowledge()

    @staticmethod
    def _accepted(outcome: dict[str, Any]) -> Accepted:
        if outcome["kind"] == "accepted":
            # The outbox has checked its promise, if identities are pinned.
            return read(Accepted, outcome["accepted"])
        may_be_accepted = bool(outcome["mayBeAccepted"])
        if outcome["kind"] == "expired":
            raise Expired("expired", "its time was over before it was accepted", is_ambiguous=may_be_accepted)
        problem = outcome.get("problem") or {}
        message = problem.get("detail") or problem.get("title") or outcome["code"]
        if outcome["code"] == "bad_promise":
            # The party that accepted it may have it executed.
            raise VerificationFailed(outcome["code"], message, is_ambiguous=True)
        raise Refused(outcome["code"], message, is_ambiguous=may_be_accepted, problem=problem)
