"""The same client for asyncio.

It uses the same threads: one transport, nothing to install, and no callback of an event loop between a request and its
storage. Nothing here blocks the loop; all waiting is done in the client's own threads.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, AsyncIterator, Callable, Iterable, Optional, TypeVar

from ._native import Forward, ForwarderDomain, Submission, UnsignedForward
from ._sender import OnOutcome, Ticket
from .client import Client, Node
from .signing import Signer
from .types import (
    Accepted,
    Batch,
    ChainFees,
    Chains,
    Change,
    Entry,
    Event,
    Forecast,
    Quote,
    RequestDetail,
    RequestPage,
    RequestSummary,
    Verdict,
)

_T = TypeVar("_T")
#: Number of threads for blocking calls.
_THREADS = 8


class AsyncClient:
    """:class:`slackwater.Client` for asyncio; the same arguments. Opens the outbox's file in its constructor."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = Client(url, **options)
        self._pool = ThreadPoolExecutor(_THREADS, "slackwater-aio")

    def __repr__(self) -> str:
        return f"Async{self._client!r}"

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends its threads."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._client.close)
        self._pool.shutdown(wait=False)

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def chains(self) -> Chains:
        """See :meth:`Client.chains`."""
        return await self._run(self._client.chains)

    async def fees(self, chain_id: int) -> ChainFees:
        """See :meth:`Client.fees`."""
        return await self._run(lambda: self._client.fees(chain_id))

    async def forecast(self, chain_id: int, horizon: Optional[float] = None) -> Forecast:
        """See :meth:`Client.forecast`."""
        return await self._run(lambda: self._client.forecast(chain_id, horizon))

    async def quote(self, chain_id: int, gas: int, within: Optional[float] = None) -> Quote:
        """See :meth:`Client.quote`."""
        return await self._run(lambda: self._client.quote(chain_id, gas, within))

    async def request(self, id: str) -> RequestDetail:
        """See :meth:`Client.request`."""
        return await self._run(lambda: self._client.request(id))

    async def requests(self, **filters: Any) -> RequestPage:
        """See :meth:`Client.requests`."""
        return await self._run(lambda: self._client.requests(**filters))

    async def cancel(self, id: str) -> RequestSummary:
        """See :meth:`Client.cancel`."""
        return await self._run(lambda: self._client.cancel(id))

    async def batch(self, id: str) -> Batch:
        """See :meth:`Client.batch`."""
        return await self._run(lambda: self._client.batch(id))

    def enqueue(self, submission: Submission, *, on_outcome: Optional[OnOutcome] = None) -> Ticket:
        """Adds a request to the outbox without blocking; no ``await`` is needed."""
        return self._client.enqueue(submission, on_outcome=on_outcome)

    def burst(self, submissions: Iterable[Submission], *, on_outcome: Optional[OnOutcome] = None) -> list[Ticket]:
        """Adds many requests to the outbox without blocking."""
        return self._client.burst(submissions, on_outcome=on_outcome)

    async def accepted(self, ticket: Ticket) -> Accepted:
        """Waits for the relayer's acceptance, and takes it. Cancelling the wait leaves the request in the outbox."""
        try:
            return await asyncio.shield(asyncio.wrap_future(ticket._future))
        finally:
            if ticket.done():
                ticket.acknowledge()

    async def submit(self, submission: Submission) -> Accepted:
        """Adds a request to the outbox, and waits for the relayer's acceptance."""
        return await self.accepted(self.enqueue(submission))

    async def sign(
        self, node: "AsyncNode", signer: Signer, domain: ForwarderDomain, to: str, *, deadline: int, **more: Any
    ) -> Forward:
        """See :meth:`Client.sign`; the same arguments. The signer is called on another thread. Cancelling the wait frees
        the nonce."""
        signing = self._pool.submit(self._client.sign, node._node, signer, domain, to, deadline=deadline, **more)
        try:
            return await asyncio.wrap_future(signing)
        except asyncio.CancelledError:
            signing.add_done_callback(self._drop)
            raise

    def _drop(self, signing: "Future[Forward]") -> None:
        if not signing.cancelled() and signing.exception() is None:
            self.discard(signing.result())

    def discard(self, forward: Forward) -> None:
        """See :meth:`Client.discard`."""
        self._client.discard(forward)

    async def send(
        self,
        node: "AsyncNode",
        signer: Signer,
        domain: ForwarderDomain,
        to: str,
        *,
        deadline: int,
        within: Optional[float] = None,
        max_cost_wei: Optional[int] = None,
        on_outcome: Optional[OnOutcome] = None,
        **more: Any,
    ) -> Ticket:
        """See :meth:`Client.send`; the same arguments."""
        forward = await self.sign(node, signer, domain, to, deadline=deadline, **more)
        return self._client._hand_over(forward, within, max_cost_wei, on_outcome)

    def tickets(self) -> list[Ticket]:
        """See :meth:`Client.tickets`."""
        return self._client.tickets()

    def entries(self) -> list[Entry]:
        """See :meth:`Client.entries`."""
        return self._client.entries()

    async def wait(self, id: str, until: str = "finalized") -> Event:
        """See :meth:`Client.wait`; use ``asyncio.wait_for`` for a timeout."""
        return await asyncio.wrap_future(self._client._watcher.watch(id, until))

    async def wait_all(self, ids: Iterable[str], until: str = "finalized") -> list[Event]:
        """See :meth:`Client.wait_all`."""
        return await asyncio.gather(*(self.wait(id, until) for id in ids))

    async def follow(self, id: str, until: str = "finalized") -> AsyncIterator[Change]:
        """See :meth:`Client.follow`. Each iterator has its own thread and stream while it is open."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()
        stop = threading.Event()

        def tell(item: object) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:
                stop.set()

        def run() -> None:
            try:
                for change in self._client._follow(id, until, stop.is_set):
                    tell(change)
                    if stop.is_set():
                        return
                tell(None)
            except BaseException as error:
                tell(error)

        threading.Thread(target=run, name="slackwater-follow", daemon=True).start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()


class AsyncNode:
    """:class:`slackwater.Node` for asyncio."""

    def __init__(self, url: str, **options: Any) -> None:
        self._node = Node(url, **options)

    async def chain_id(self) -> int:
        """See :meth:`Node.chain_id`."""
        return await asyncio.to_thread(self._node.chain_id)

    async def nonce(self, forwarder: str, owner: str) -> int:
        """See :meth:`Node.nonce`."""
        return await asyncio.to_thread(self._node.nonce, forwarder, owner)

    async def domain(self, forwarder: str) -> ForwarderDomain:
        """See :meth:`Node.domain`."""
        return await asyncio.to_thread(self._node.domain, forwarder)

    async def trusted_domain(
        self, forwarder: str, to: str, *, chain_id: Optional[int] = None, pinned: bool = False
    ) -> ForwarderDomain:
        """See :meth:`Node.trusted_domain`."""
        return await asyncio.to_thread(
            lambda: self._node.trusted_domain(forwarder, to, chain_id=chain_id, pinned=pinned)
        )

    async def prepare(self, forwarder: str, sender: str, to: str, **more: Any) -> UnsignedForward:
        """See :meth:`Node.prepare`; the same arguments."""
        return await asyncio.to_thread(lambda: self._node.prepare(forwarder, sender, to, **more))

    async def check_inclusion(
        self,
        forward: Forward,
        claim: Event,
        *,
        finality: str = "finalized",
        depth: Optional[int] = None,
        pinned: bool = False,
    ) -> Verdict:
        """See :meth:`Node.check_inclusion`."""
        return await asyncio.to_thread(
            lambda: self._node.check_inclusion(forward, claim, finality=finality, depth=depth, pinned=pinned)
        )
