"""Drives the native state machines that follow requests."""

from __future__ import annotations

import heapq
import http.client
import json
import socket
import threading
import time
from concurrent.futures import Future
from typing import Callable, Iterator, Optional

from . import _native
from ._http import Transport
from ._sender import entropy, now_ms
from .types import Change, Event, read

#: Number of threads that poll requests for all waiting callers.
WATCHERS = 4
#: Longest pause in a wait, seconds, so that closing is noticed.
_TICK = 0.2


def is_inclusion(until: str) -> bool:
    """True for ``included``, false for ``finalized``; raises for anything else."""
    if until not in ("included", "finalized"):
        from ._errors import InvalidArgument

        raise InvalidArgument("invalid_argument", "until: `included` or `finalized`")
    return until == "included"


def follow(
    transport: Transport, id: str, until: str, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Change]:
    """Yields the changes of one request from its event stream, through broken connections and reorganisations."""
    machine = _native.Follow(id, to_inclusion=is_inclusion(until))
    kept: list[http.client.HTTPConnection] = []
    response: Optional[http.client.HTTPResponse] = None
    try:
        while not is_stopped():
            while (change := machine.next_change()) is not None:
                yield read(Change, json.loads(change))
            step, call, at = machine.step(now_ms())
            if step == "done":
                machine.check()
                return
            if step == "open" and call is not None:
                kept.clear()
                came, response = transport.open(call, kept.append)
                machine.opened(now_ms(), came, entropy())
            elif step == "look" and call is not None:
                machine.looked(now_ms(), transport.send(call), entropy())
            elif step == "wait" and at is not None:
                time.sleep(min(_TICK, max(0.0, (at - now_ms()) / 1_000)))
            elif response is not None:
                try:
                    chunk = response.read1(65_536)
                except (OSError, http.client.HTTPException, ValueError):
                    chunk = b""
                if not chunk or not machine.fed(chunk):
                    kept[0].close()
                    response = None
                    machine.closed(now_ms(), entropy())
    finally:
        for connection in kept:
            _shut(connection)


def _shut(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    connection.close()


class Watcher:
    """Waits for many requests with few threads, by polling each."""

    def __init__(self, transport: Transport, poll: float, told: Callable[[str, str], None]) -> None:
        self._transport, self._poll, self._told = transport, poll, told
        self._due: list[tuple[int, int, _native.Follow, Future[Event]]] = []
        self._counter = 0
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def watch(self, id: str, until: str) -> Future[Event]:
        """Returns a future of the request's last event. Cancel it to stop waiting."""
        machine = _native.Follow(id, to_inclusion=is_inclusion(until), poll=self._poll)
        future: Future[Event] = Future()
        with self._wake:
            if self._is_closed:
                future.cancel()
                return future
            while len(self._threads) < WATCHERS:
                name = f"slackwater-watch-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
            self._push(0, machine, future)
        return future

    def _push(self, at: int, machine: _native.Follow, future: Future[Event]) -> None:
        self._counter += 1
        heapq.heappush(self._due, (at, self._counter, machine, future))
        self._wake.notify()

    def close(self) -> None:
        """Stops, and cancels all pending futures."""
        with self._wake:
            self._is_closed = True
            due, self._due = self._due, []
            self._wake.notify_all()
        for _, _, _, future in due:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._is_closed and (not self._due or self._due[0][0] > now_ms()):
                    self._wake.wait((self._due[0][0] - now_ms()) / 1_000 + 0.001 if self._due else None)
                if self._is_closed:
                    return
                _, _, machine, future = heapq.heappop(self._due)
            if future.cancelled():
                continue
            try:
                at = self._look(machine)
                if at is None:
                    machine.check()
                    state = machine.state()
                    event = read(Event, json.loads(state or "{}"))
                    self._told(event.request_id, event.status)
            except BaseException as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                continue
            if at is None:
                if future.set_running_or_notify_cancel():
                    future.set_result(event)
                continue
            with self._wake:
                if self._is_closed:
                    future.cancel()
                else:
                    self._push(at, machine, future)

    def _look(self, machine: _native.Follow) -> Optional[int]:
        """Polls once. Returns the time of the next poll (Unix ms), or ``None`` at the end."""
        while True:
            step, call, at = machine.step(now_ms())
            if step == "look" and call is not None:
                machine.looked(now_ms(), self._transport.send(call), entropy())
                while machine.next_change() is not None:
                    pass
            else:
                return at
