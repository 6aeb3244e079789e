"""The client: plain calls, a non-blocking outbox, and optional waiting for outcomes."""

from __future__ import annotations

import json
import os
import ssl
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence, TypeVar, Union

from . import _native
from ._errors import InvalidArgument, NodeFailed
from ._follow import Watcher, follow
from ._http import Transport
from ._native import Forward, ForwarderDomain, Submission, UnsignedForward
from ._sender import OnOutcome, Sender, Ticket, entropy, now_ms
from ._storage import FileStorage, MemoryStorage, Storage
from .signing import Signer, sign
from .types import (
    Accepted,
    Batch,
    Chains,
    ChainFees,
    Change,
    Entry,
    Event,
    Forecast,
    Quote,
    RequestDetail,
    RequestPage,
    RequestSummary,
    Verdict,
    read,
)

_T = TypeVar("_T")


def _ms(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else seconds * 1_000


class Client:
    """A client of one relayer. Safe to use from several threads; create it after a fork, not before.

    ``outbox`` is the path of a file that keeps requests through crashes (with ``fsync`` through power loss), or a
    :class:`Storage`; without it they are kept in memory. Its entries belong to this relayer: opened for another one, it
    is refused (``outbox_of_other_relayer``). ``relayer`` is the relayer's identity, known from another source (or
    several, while it is rotated): an acceptance without its signature raises ``bad_promise``, which is ambiguous.
    ``on_outcome`` receives the outcomes that no caller waits for.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: Optional[str] = None,
        timeout: float = 30.0,
        outbox: Union[None, str, os.PathLike[str], Storage] = None,
        fsync: bool = True,
        relayer: Union[None, str, Sequence[str]] = None,
        on_outcome: Optional[OnOutcome] = None,
        poll: float = 2.0,
        max_entries: Optional[int] = None,
        max_batch_items: Optional[int] = None,
        linger: Optional[float] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._transport = Transport(url, api_key=api_key, timeout=timeout, ssl_context=ssl_context)
        storage: Storage
        if outbox is None:
            storage = MemoryStorage()
        elif isinstance(outbox, (str, os.PathLike)):
            storage = FileStorage(outbox, fsync=fsync)
        else:
            storage = outbox
        limits: dict[str, Any] = {"max_entries": max_entries, "max_batch_items": max_batch_items, "linger": linger}
        self._sender = Sender(self._transport, storage, relayer=relayer, on_outcome=on_outcome, **limits)
        self._watcher = Watcher(self._transport, poll, self._sender.told)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout: float = 5.0) -> None:
        """Ends its threads. Entries in the outbox's file are resumed by the next client."""
        self._watcher.close()
        self._sender.close(timeout)
        self._transport.close()

    def _call(self, kind: type[_T], name: str, **arguments: Any) -> _T:
        exchange = _native.Exchange(name, json.dumps(arguments))
        while True:
            call, until = exchange.step(now_ms())
            if call is None:
                time.sleep(max(0.0, ((until or 0) - now_ms()) / 1_000))
                continue
            answer = exchange.answered(now_ms(), self._transport.send(call), entropy())
            if answer is not None:
                value: dict[str, Any] = json.loads(answer)
                return read(kind, value)

    def chains(self) -> Chains:
        """The chains that are served."""
        return self._call(Chains, "chains")

    def fees(self, chain_id: int) -> ChainFees:
        """Prices now."""
        return self._call(ChainFees, "fees", chainId=chain_id)

    def forecast(self, chain_id: int, horizon: Optional[float] = None) -> Forecast:
        """The expected base fee; with ``horizon`` (seconds) only at the nearest one."""
        return self._call(Forecast, "forecast", chainId=chain_id, horizonMs=_ms(horizon))

    def quote(self, chain_id: int, gas: int, within: Optional[float] = None) -> Quote:
        """What so much gas costs now and, if it may wait ``within`` seconds, what waiting is worth."""
        return self._call(Quote, "quote", chainId=chain_id, gas=gas, withinMs=_ms(within))

    def request(self, id: str) -> RequestDetail:
        """All about one request."""
        detail = self._call(RequestDetail, "request", id=id)
        self._sender.told(detail.id, detail.status)
        return detail

    def requests(
        self,
        *,
        status: Optional[str] = None,
        chain_id: Optional[int] = None,
        cursor: Optional[str] = None,
        limit: Optional[int] = None,
    ) -> RequestPage:
        """A page of requests, newest first."""
        return self._call(RequestPage, "requests", status=status, chainId=chain_id, cursor=cursor, limit=limit)

    def cancel(self, id: str) -> RequestSummary:
        """Withdraws a request that is still queued."""
        cancelled = self._call(RequestSummary, "cancel", id=id)
        self._sender.told(cancelled.id, cancelled.status)
        return cancelled

    def batch(self, id: str) -> Batch:
        """One batch, ``chainId:sender:nonce``."""
        return self._call(Batch, "batch", id=id)

    def enqueue(self, submission: Submission, *, on_outcome: Optional[OnOutcome] = None) -> Ticket:
        """Adds a request to the outbox without blocking on disk or network. Idempotent: the same request has the same
        ticket."""
        return self._sender.enqueue([submission], on_outcome)[0]

    def burst(self, submissions: Iterable[Submission], *, on_outcome: Optional[OnOutcome] = None) -> list[Ticket]:
        """Adds many requests to the outbox. They share calls; requests of one user are sent in their order."""
        return self._sender.enqueue(submissions, on_outcome)

    def submit(self, submission: Submission, timeout: Optional[float] = None) -> Accepted:
        """Adds a request to the outbox, and waits for the relayer's acceptance."""
        return self.enqueue(submission).result(timeout)

    def sign(
        self,
        node: "Node",
        signer: Signer,
        domain: ForwarderDomain,
        to: str,
        *,
        deadline: int,
        sender: Optional[str] = None,
        nonce: Optional[int] = None,
        data: bytes = b"",
        value: Optional[int] = None,
        gas: Optional[int] = None,
    ) -> Forward:
        """A signed request. Unless ``nonce`` names one, it gets the first nonce that no other request of this client
        holds, by the chain, the outbox and what the relayer has accepted. ``node`` is asked only if the next nonce is not
        known. The request holds its nonce until it is submitted and has ended, or :meth:`discard`; an exception of
        ``signer`` frees it. ``domain`` is from :meth:`Node.trusted_domain`; ``sender`` is needed for a signer without
        ``address``."""
        account = getattr(signer, "address", None) if sender is None else sender
        if not isinstance(account, str):
            raise InvalidArgument("invalid_argument", f"sender: {type(signer).__name__} has no address")
        return self._sender.sign(
            domain,
            account,
            to,
            lambda: node.nonce(domain.forwarder, account),
            lambda unsigned: sign(unsigned, signer),
            deadline=deadline,
            nonce=nonce,
            data=data,
            value=value,
            gas=gas,
        )

    def discard(self, forward: Forward) -> None:
        """Frees the nonce of a signed request that will not be submitted."""
        self._sender.free(forward.id)

    def send(
        self,
        node: "Node",
        signer: Signer,
        domain: ForwarderDomain,
        to: str,
        *,
        within: Optional[float] = None,
        max_cost_wei: Optional[int] = None,
        on_outcome: Optional[OnOutcome] = None,
        **more: Any,
    ) -> Ticket:
        """Signs a request as :meth:`sign` does, with the same arguments, and adds it to the outbox."""
        return self._hand_over(self.sign(node, signer, domain, to, **more), within, max_cost_wei, on_outcome)

    def _hand_over(
        self, forward: Forward, within: Optional[float], max_cost_wei: Optional[int], on_outcome: Optional[OnOutcome]
    ) -> Ticket:
        try:
            submission = Submission.forward(forward, within=within, max_cost_wei=max_cost_wei)
            return self.enqueue(submission, on_outcome=on_outcome)
        except BaseException:
            self.discard(forward)
            raise

    def tickets(self) -> list[Ticket]:
        """Tickets of all entries that were not acknowledged, including those of earlier processes with the same
        file."""
        return self._sender.tickets()

    def entries(self) -> list[Entry]:
        """All entries of the outbox."""
        return self._sender.entries()

    @property
    def damaged(self) -> list[str]:
        """Keys of unreadable records of the outbox. The records stay in storage for inspection."""
        return list(self._sender.damaged)

    def follow(self, id: str, until: str = "finalized") -> Iterator[Change]:
        """Yields each change of a request from the first on, as it happens, from its event stream."""
        return self._follow(id, until, lambda: False)

    def _follow(self, id: str, until: str, is_stopped: Callable[[], bool]) -> Iterator[Change]:
        for change in follow(self._transport, id, until, is_stopped):
            self._sender.told(id, change.event.status)
            yield change

    def wait(self, id: str, until: str = "finalized", timeout: Optional[float] = None) -> Event:
        """Waits until a request is ``included`` or ``finalized``, or has ended otherwise. Returns its last event."""
        return self.wait_all([id], until, timeout)[0]

    def wait_all(self, ids: Iterable[str], until: str = "finalized", timeout: Optional[float] = None) -> list[Event]:
        """Waits for many requests with few threads. A ``TimeoutError`` ends the waiting, not the requests."""
        end = None if timeout is None else time.monotonic() + timeout
        futures = [self._watcher.watch(id, until) for id in ids]
        try:
            return [
                future.result(None if end is None else max(0.0, end - time.monotonic())) for future in futures
            ]
        except FutureTimeout:
            raise TimeoutError("the requests did not get there in time") from None
        finally:
            for future in futures:
                future.cancel()


class Node:
    """The user's own node: a source of chain data that is independent of the relayer."""

    def __init__(
        self, url: str, *, timeout: float = 15.0, ssl_context: Optional[ssl.SSLContext] = None
    ) -> None:
        self._transport = Transport(url, timeout=timeout, ssl_context=ssl_context)

    def _post(self, body: str) -> bytes:
        came = self._transport.send(("POST", "", [("content-type", "application/json")], body))
        if len(came) == 2:
            raise NodeFailed("node_error", came[1], is_retryable=True)
        return came[2]

    def chain_id(self) -> int:
        """EIP-155 chain id."""
        question = _native.NodeCall.chain_id()
        return int(question.parse(self._post(question.body)))

    def nonce(self, forwarder: str, owner: str) -> int:
        """A user's next nonce at a forwarder."""
        question = _native.NodeCall.nonce(forwarder, owner)
        return int(question.parse(self._post(question.body)))

    def domain(self, forwarder: str) -> ForwarderDomain:
        """A forwarder's EIP-712 domain."""
        question = _native.NodeCall.domain(forwarder)
        domain = question.parse(self._post(question.body))
        assert isinstance(domain, ForwarderDomain)
        return domain

    def trusted_domain(
        self, forwarder: str, to: str, *, chain_id: Optional[int] = None, pinned: bool = False
    ) -> ForwarderDomain:
        """A forwarder's domain, after checking that it is safe to sign for: the target ``to`` trusts it, and its code
        is that of a known forwarder. ``pinned`` accepts any code, for a forwarder known from another source than the
        relayer. Raises ``untrusted_forwarder`` or ``unknown_forwarder`` otherwise."""
        check = _native.ForwarderCheck(self.chain_id() if chain_id is None else chain_id, forwarder, to, pinned=pinned)
        return check.judge([self._post(body) for body in check.bodies])

    def prepare(
        self,
        forwarder: str,
        sender: str,
        to: str,
        *,
        deadline: int,
        nonce: Optional[int] = None,
        data: bytes = b"",
        value: Optional[int] = None,
        gas: Optional[int] = None,
        chain_id: Optional[int] = None,
        pinned: bool = False,
    ) -> UnsignedForward:
        """A request for ``sender`` to sign: the forwarder is checked as by :meth:`trusted_domain`. If ``nonce`` is
        ``None``, it is read from the chain: it knows of no request that is on its way, as :meth:`Client.sign` does."""
        domain = self.trusted_domain(forwarder, to, chain_id=chain_id, pinned=pinned)
        next_nonce = self.nonce(forwarder, sender) if nonce is None else nonce
        return UnsignedForward(
            domain, sender, to, nonce=next_nonce, deadline=deadline, data=data, value=value, gas=gas
        )

    def check_inclusion(
        self,
        forward: Forward,
        claim: Event,
        *,
        finality: str = "finalized",
        depth: Optional[int] = None,
        pinned: bool = False,
    ) -> Verdict:
        """Checks a relayer's claim about a request. ``finality`` is ``finalized``, ``safe``, or ``depth``. A claim is
        never ``confirmed`` if the target does not trust the forwarder (``untrusted_forwarder``), or if the forwarder's
        code is unknown (``unknown_forwarder``), unless the caller knows it from another source than the relayer
        (``pinned``)."""
        event = {
            "seq": claim.seq,
            "requestId": claim.request_id,
            "requestSeq": claim.request_seq,
            "chainId": claim.chain_id,
            "status": claim.status,
            "txHash": claim.tx_hash,
            "blockNumber": claim.block_number,
            "atMs": claim.at_ms,
        }
        check = _native.InclusionCheck(forward, json.dumps(event), finality=finality, depth=depth, pinned=pinned)
        while (body := check.next_body()) is not None:
            try:
                check.answer(self._post(body))
            except NodeFailed as error:
                check.no_answer(str(error))
        return read(Verdict, json.loads(check.verdict() or "{}"))

    def close(self) -> None:
        """Closes its connections."""
        self._transport.close()
