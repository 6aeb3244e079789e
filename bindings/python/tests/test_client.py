"""Calls of the client's that the bursts of `test_relayer` do not make, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import MARK, World, assert_once, eventually, requests

import slackwater as sw


def marked(world: World, tag: bytes) -> "list[str]":
    """Who has marked a tag, by the chain."""
    return [user for user, found in world.signed() if found == "0x" + tag.hex()]


def test_calls_of_a_backend(world: World) -> None:
    """`call` has no signature: the salt says what is the same order."""
    book, chain_id = world.ready["guestbook"], world.ready["chainId"]
    tags = [(23 << 32 | index).to_bytes(32, "big") for index in range(3)]

    def call(tag: bytes, salt: bytes, any_sender: bool) -> sw.Submission:
        return sw.Submission.call(chain_id, book, salt=salt, gas=120_000, data=MARK + tag, any_sender=any_sender, within=30)

    shared, own = call(tags[0], b"order 1", True), call(tags[1], b"order 2", False)
    assert (shared.id, shared.chain_id) == (None, chain_id)
    assert shared.key == call(tags[0], b"order 1", True).key != call(tags[0], b"order 3", True).key
    with sw.Client(world.url, relayer=world.ready["relayer"], poll=0.5) as client:
        accepted = [client.submit(one, 60) for one in (shared, own, call(tags[0], b"order 1", True))]
        assert accepted[2].duplicate and accepted[2].id == accepted[0].id != accepted[1].id
        ends = client.wait_all([one.id for one in accepted[:2]], timeout=300)
        assert [end.status for end in ends] == ["finalized", "finalized"]
        assert [client.request(one.id).kind for one in accepted[:2]] == ["call", "call"]
        # The relayer's own account, or Multicall3 where the caller does not mind.
        assert marked(world, tags[0])[0].lower() == world.ready["multicall3"].lower()
        assert len(marked(world, tags[0])) == 1 and marked(world, tags[1])[0] not in marked(world, tags[0])
        # The same order with another content is another request under the same key.
        key = {"idempotency_key": "order-4"}
        client.submit(sw.Submission.call(chain_id, book, salt=b"", gas=120_000, data=MARK + tags[2], any_sender=True, **key), 60)
        with pytest.raises(sw.Refused) as caught:
            client.submit(sw.Submission.call(chain_id, book, salt=b"", gas=130_000, data=MARK + tags[2], any_sender=True, **key), 60)
        assert caught.value.code == "idempotency_conflict" and not caught.value.is_ambiguous
    eventually("once", lambda: len(marked(world, tags[2])) == 1)
    for wrong in (dict(gas=-1), dict(gas=1, within=1, deadline=1), dict(gas=1, value=-1), dict(gas=1, idempotency_key="\n")):
        with pytest.raises(sw.InvalidArgument):
            sw.Submission.call(chain_id, book, salt=b"", any_sender=True, **wrong)  # type: ignore[arg-type]


def waiting(world: World, tag: int) -> "tuple[sw.Forward, sw.Forward]":
    """Nonces 0 and 1 of a user: without the first one the second stays queued."""
    forwards, _ = requests(world, 2, tag, users=1)
    return forwards[0], forwards[1]


def test_cancel(world: World) -> None:
    first, second = waiting(world, 24)
    with sw.Client(world.url, poll=0.5) as client:
        accepted = client.submit(sw.Submission.forward(second), 60)
        cancelled = client.cancel(accepted.id)
        assert (cancelled.id, cancelled.status) == (accepted.id, "cancelled")
        assert client.wait(accepted.id, timeout=60).status == "cancelled"
        # What is in a transaction can't be withdrawn any more, and what nobody knows not either.
        done = client.submit(sw.Submission.forward(first), 60)
        assert client.wait(done.id, timeout=300).status == "finalized"
        for id, code in ((done.id, "too_late"), ("0x" + "cd" * 32, "not_found")):
            with pytest.raises(sw.Refused) as caught:
                client.cancel(id)
            assert caught.value.code == code


def test_batch_and_pages(world: World) -> None:
    forwards, marks = requests(world, 6, 25, users=6)
    with sw.Client(world.url, poll=0.5) as client:
        tickets = client.burst(sw.Submission.forward(forward) for forward in forwards)
        ids = [ticket.result(60).id for ticket in tickets]
        client.wait_all(ids, timeout=300)
        detail = client.request(ids[0])
        assert detail.status == "finalized" and detail.batch is not None and detail.attempts and detail.cost_wei
        batch = client.batch(detail.batch)
        assert batch.id == detail.batch and batch.included_hash == detail.tx_hash and ids[0] in batch.members
        assert batch.member_count == len(batch.members) and batch.gas_used and batch.attempts[0].tx_hash
        # Pages meet, and tell each request once.
        seen, cursor = [], None
        for _ in range(10_000):
            page = client.requests(status="finalized", chain_id=world.ready["chainId"], cursor=cursor, limit=4)
            seen += [request.id for request in page.requests]
            if set(ids) <= set(seen) or (cursor := page.next_cursor) is None:
                break
        assert set(ids) <= set(seen) and len(seen) == len(set(seen))
        with pytest.raises(sw.Refused) as caught:
            client.batch(detail.batch + "9999")
        assert caught.value.code == "not_found"
        # A chain whose timing is immediate has no forecast.
        with pytest.raises(sw.Refused):
            client.forecast(world.ready["chainId"], 60)
    assert_once(world, marks)


def test_withdraw_before_it_was_sent(world: World) -> None:
    forwards, marks = requests(world, 2, 26, users=2)
    # It waits so long for company that nothing is sent meanwhile.
    with sw.Client(world.url, linger=600.0) as client:
        ticket = client.enqueue(sw.Submission.forward(forwards[0]))
        entry = eventually("stored", lambda: [one for one in client.entries() if one.state == "waiting"])[0]
        assert entry.place is not None and entry.attempts == 0
        user = entry.place.user
        assert (user.from_.lower(), user.chain_id, entry.place.nonce) == (
            forwards[0].sender.lower(), world.ready["chainId"], 0)
        assert user.forwarder.lower() == world.ready["forwarder"].lower()
        assert ticket.withdraw() and not ticket.withdraw()
        assert client.tickets() == [] and eventually("forgotten", lambda: not client.entries())
        with pytest.raises(sw.Refused):
            client.request(forwards[0].id)
    with sw.Client(world.url, poll=0.5) as client:
        sent = client.enqueue(sw.Submission.forward(forwards[1]))
        eventually("promised", sent.done)
        assert not sent.withdraw(), "it was sent"
        assert client.wait(sent.result(0).id, timeout=300).is_success
    assert [tag for _, tag in world.signed() if tag in marks] == [list(marks)[1]]


def test_every_call_of_asyncio(world: World, tmp_path: pathlib.Path) -> None:
    forwards, marks = requests(world, 4, 27, users=4)
    first, second = waiting(world, 28)

    async def main() -> None:
        node = sw.AsyncNode(world.rpc_url)
        forwarder, chain_id = world.ready["forwarder"], world.ready["chainId"]
        assert await node.chain_id() == chain_id
        assert (await node.domain(forwarder)).name == world.ready["forwarderName"]
        assert await node.nonce(forwarder, forwards[0].sender) == 0
        async with sw.AsyncClient(world.url, relayer=world.ready["relayer"], outbox=tmp_path / "outbox.db", poll=0.5) as client:
            chains, fees, quote = await asyncio.gather(
                client.chains(), client.fees(chain_id), client.quote(chain_id, 100_000, within=30))
            assert chains.relayer.lower() == world.ready["relayer"].lower() and fees.chain_id == chain_id
            assert quote.expected_cost_wei > 0
            with pytest.raises(sw.Refused):
                await client.forecast(chain_id)
            tickets = client.burst(sw.Submission.forward(forward) for forward in forwards)
            assert {ticket.key for ticket in client.tickets()} >= {ticket.key for ticket in tickets}
            accepted = [await client.accepted(ticket) for ticket in tickets]
            end = await asyncio.wait_for(client.wait(accepted[0].id), 300)
            await client.wait_all([one.id for one in accepted])
            assert client.entries() == []
            verdict = await node.check_inclusion(forwards[0], end, finality="depth", depth=1)
            assert (verdict.kind, verdict.binding) == ("confirmed", "content"), verdict
            detail = await client.request(accepted[0].id)
            assert detail.batch is not None and accepted[0].id in (await client.batch(detail.batch)).members
            assert len((await client.requests(status="finalized", limit=2)).requests) == 2
            held = await client.submit(sw.Submission.forward(second))
            assert (await client.cancel(held.id)).status == "cancelled"
            # A wait that is given up leaves the request where it is.
            ticket = client.enqueue(sw.Submission.forward(first))
            waiter = asyncio.create_task(client.accepted(ticket))
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert (await client.wait((await client.accepted(ticket)).id)).is_success

    asyncio.run(main())
    assert_once(world, marks)


#: A process with an outbox: hands everything over, and tells what came of it.
SERVICE = """
import sys
import time
import slackwater as sw
url, node_url, forwarder, book, path, count = sys.argv[1:]
node = sw.Node(node_url)
domain = node.domain(forwarder)
key = sw.Key(bytes([71]) * 32)
with sw.Client(url, outbox=path, max_batch_items=1) as client:
    if int(count):
        client.burst(
            sw.Submission.forward(sw.sign(sw.UnsignedForward(
                domain, key.address, book, nonce=nonce, deadline=int(time.time()) + 3_600,
                data=bytes.fromhex("ee02438e") + (29 << 32 | nonce).to_bytes(32, "big")), key))
            for nonce in range(int(count)))
        while any(entry.state == "storing" for entry in client.entries()):
            time.sleep(0.005)
    print("stored", len(client.tickets()), flush=True)
    for ticket in client.tickets():
        print("promised", ticket.result(120).id, flush=True)
    print("end", flush=True)
"""


def test_killed_in_the_middle_of_submitting(world: World, tmp_path: pathlib.Path) -> None:
    """The process gets a SIGKILL while it submits. The next one goes on with the file, and the chain has each once."""
    count = 150

    def start(count: int) -> "subprocess.Popen[str]":
        ready = world.ready
        arguments = [world.url, world.rpc_url, ready["forwarder"], ready["guestbook"], str(tmp_path / "outbox.db"), str(count)]
        return subprocess.Popen([sys.executable, "-c", SERVICE, *arguments], stdout=subprocess.PIPE, text=True)

    def line(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    world.kill_relayer()
    first = start(count)
    assert line(first) == f"stored {count}"
    world.start_relayer()
    promised = {line(first) for _ in range(3)}
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert len(promised) == 3 and all(text.startswith("promised 0x") for text in promised)

    second = start(0)
    left = int(line(second).split()[1])
    assert 0 < left < count, "killed in the middle"
    assert second.stdout is not None
    lines = second.stdout.read().splitlines()
    assert second.wait() == 0 and lines[-1] == "end" and len(lines) == left + 1
    tags = {"0x" + (29 << 32 | nonce).to_bytes(32, "big").hex() for nonce in range(count)}

    def found() -> "Counter[str]":
        return Counter(tag for _, tag in world.signed() if tag in tags)

    eventually("each is on the chain", lambda: len(found()) == count, 180)
    # Nothing is on its way any more that could come a second time.
    with sw.Client(world.url, poll=0.5) as client:
        eventually("all have ended", lambda: not any(
            client.requests(status=status, limit=1).requests for status in ("queued", "batched", "broadcast", "included")), 120)
    assert set(found().values()) == {1}
    with sw.Client(world.url, outbox=tmp_path / "outbox.db") as client:
        assert client.entries() == []


def test_a_timeout_ends_the_waiting_and_not_the_request(world: World) -> None:
    forwards, marks = requests(world, 1, 30, users=1)
    with sw.Client(world.url, poll=0.5) as client:
        ticket = client.enqueue(sw.Submission.forward(forwards[0]))
        id = ticket.result(60).id
        with pytest.raises(TimeoutError):
            client.wait(id, timeout=0.0)
        started = time.monotonic()
        assert client.wait(id, until="included", timeout=300).status in ("included", "finalized")
        assert time.monotonic() - started < 300
        assert client.wait(id, timeout=300).is_success
    assert_once(world, marks)


class Chain:
    """A node of which only a user's nonce is asked."""

    def __init__(self) -> None:
        self.next, self.asked = 0, 0

    def nonce(self, forwarder: str, owner: str) -> int:
        self.asked += 1
        return self.next


def test_nonces_are_given_when_a_request_is_signed(tmp_path: pathlib.Path) -> None:
    """Each holds its own, whatever fails gives it back, and the first free one is next; over a restart, too."""
    key, domain = sw.Key(bytes([73]) * 32), sw.ForwarderDomain("Slackwater", 31_337, "0x" + "f0" * 20)
    chain, target, deadline = Chain(), "0x" + "07" * 20, int(time.time()) + 3_600
    node: Any = chain
    path = tmp_path / "outbox.db"

    def signed(client: sw.Client, signer: sw.Signer = key, **more: Any) -> sw.Forward:
        return client.sign(node, signer, domain, target, **{"deadline": deadline, **more})

    def declining(digest: bytes) -> bytes:
        raise RuntimeError("no, thank you")

    with sw.Client("http://127.0.0.1:9", outbox=path) as client:
        held = [signed(client) for _ in range(3)]
        assert [forward.nonce for forward in held] == [0, 1, 2] and chain.asked == 1
        with pytest.raises(RuntimeError):
            signed(client, declining, sender=key.address)
        with pytest.raises(sw.InvalidArgument):
            signed(client, declining)
        for wrong in (dict(gas=0), dict(deadline=1 << 50), dict(to="vitalik.eth")):
            with pytest.raises(sw.InvalidArgument):
                client.sign(node, key, domain, **{"to": target, "deadline": deadline, **wrong})  # type: ignore[arg-type]
        with pytest.raises(sw.OutboxRefused):
            client.send(node, key, domain, target, deadline=deadline, within=0.0)
        # One in the middle is given to the next request.
        client.discard(held[1])
        assert [signed(client).nonce for _ in range(2)] == [1, 3] and chain.asked == 1
        tickets = [client.send(node, key, domain, target, deadline=deadline, data=bytes([tag])) for tag in (1, 2)]
        assert [entry.place and entry.place.nonce for entry in client.entries()] == [4, 5]
        assert tickets[1].withdraw() and signed(client).nonce == 5
        # Somebody else's are counted for themselves.
        assert signed(client, sw.Key(bytes([74]) * 32)).nonce == 0 and chain.asked == 2
        assert [signed(client, nonce=40, data=bytes([tag])).nonce for tag in (1, 2)] == [40, 40]
        eventually("stored", lambda: all(entry.state != "storing" for entry in client.entries()))
    # What is not in the file is gone with the process, and what is there holds its nonce.
    chain.next = 3
    with sw.Client("http://127.0.0.1:9", outbox=path) as client:
        assert [signed(client).nonce for _ in range(2)] == [3, 5]


def test_threads_share_nonces_and_a_cancelled_wait_frees_its_own() -> None:
    """Whichever thread signs, and whoever has gone away before the signature came."""
    key, domain = sw.Key(bytes([76]) * 32), sw.ForwarderDomain("Slackwater", 31_337, "0x" + "f0" * 20)
    node, target, deadline = sw.AsyncNode("http://127.0.0.1:9"), "0x" + "07" * 20, int(time.time()) + 3_600
    chain: Any = Chain()
    node._node = chain
    asked, signs = threading.Event(), threading.Event()

    def slow(digest: bytes) -> Any:
        asked.set()
        assert signs.wait(60)
        return key.sign_digest(digest)

    async def run() -> None:
        async with sw.AsyncClient("http://127.0.0.1:9") as client:
            def sign(signer: sw.Signer = key) -> "asyncio.Task[sw.Forward]":
                signing = client.sign(node, signer, domain, target, deadline=deadline, sender=key.address)
                return asyncio.create_task(signing)

            left = sign(slow)
            await asyncio.to_thread(asked.wait, 60)
            held = await asyncio.gather(*(sign() for _ in range(40)))
            assert sorted(forward.nonce for forward in held) == list(range(1, 41))
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            signs.set()
            for _ in range(600):
                last = await sign()
                if last.nonce == 0:
                    break
                client.discard(last)
                await asyncio.sleep(0.05)
            assert last.nonce == 0

    asyncio.run(run())


def test_what_is_accepted_holds_its_nonce_over_a_restart(world: World, tmp_path: pathlib.Path) -> None:
    """Its entry is gone, and the chain does not know of it yet."""
    key, book = sw.Key(bytes([75]) * 32), world.ready["guestbook"]
    tags = [(32 << 32 | index).to_bytes(32, "big") for index in range(5)]

    async def send(tags: "list[bytes]") -> "list[str]":
        node = sw.AsyncNode(world.rpc_url)
        domain = await node.trusted_domain(world.ready["forwarder"], book)
        async with sw.AsyncClient(world.url, outbox=tmp_path / "outbox.db") as client:
            async def one(tag: bytes) -> str:
                deadline = int(time.time()) + 3_600
                ticket = await client.send(node, key, domain, book, deadline=deadline, data=MARK + tag, within=60.0)
                return (await client.accepted(ticket)).id

            ids = await asyncio.gather(*(one(tag) for tag in tags))
            assert client.entries() == []
            return list(ids)

    world.rpc("evm_setIntervalMining", 0)
    try:
        ids = asyncio.run(send(tags[:3])) + asyncio.run(send(tags[3:]))
    finally:
        world.rpc("evm_setIntervalMining", 1)
    with sw.Client(world.url, outbox=tmp_path / "outbox.db", poll=0.5) as client:
        assert all(end.is_success for end in client.wait_all(ids, timeout=300))
        node = sw.Node(world.rpc_url)
        domain = node.trusted_domain(world.ready["forwarder"], book)
        assert client.sign(node, key, domain, book, deadline=int(time.time()) + 60).nonce == 5
        node.close()
    assert_once(world, {"0x" + tag.hex(): key.address.lower() for tag in tags})


class Counting(BaseHTTPRequestHandler):
    """A relayer that refuses everything, and counts what it is sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.posts += 1  # type: ignore[attr-defined]
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_outbox_belongs_to_its_relayer(tmp_path: pathlib.Path) -> None:
    """What was handed over for one relayer is never sent to another; one that moves is known by its identity."""
    key, domain = sw.Key(bytes([72]) * 32), sw.ForwarderDomain("Slackwater", 31_337, "0x" + "f0" * 20)
    unsigned = sw.UnsignedForward(domain, key.address, "0x" + "07" * 20, nonce=0, deadline=int(time.time()) + 3_600)
    submission = sw.Submission.forward(sw.sign(unsigned, key))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.posts = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, nowhere = f"http://127.0.0.1:{server.server_address[1]}", "http://127.0.0.1:9"
    path, identity, other = tmp_path / "outbox.db", "0x" + "11" * 20, "0x" + "22" * 20

    def refused(url: str, **options: Any) -> str:
        with pytest.raises(sw.OutboxRefused) as caught:
            sw.Client(url, outbox=path, **options)
        return caught.value.code

    def posts() -> int:
        return server.posts  # type: ignore[attr-defined, no-any-return]

    try:
        with sw.Client(nowhere, outbox=path) as client:
            client.enqueue(submission)
            eventually("stored", lambda: all(entry.state != "storing" for entry in client.entries()))
        assert refused(here) == refused(here, relayer=identity) == "outbox_of_other_relayer"
        assert posts() == 0
        # From now on it is the identity's, wherever that is; while it is rotated, both count.
        with sw.Client(nowhere + "/", outbox=path, relayer=identity) as client:
            assert len(client.tickets()) == 1
            eventually("stored", lambda: client.entries()[0].attempts > 0)
        assert refused(nowhere, relayer=other) == "outbox_of_other_relayer"
        assert posts() == 0
        with sw.Client(here, outbox=path, relayer=[other, identity]) as client:
            eventually("sent", lambda: posts() > 0)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("relayer", ["foo", [], ["0x12"], ["0x" + "11" * 20, "foo"]])
def test_an_identity_that_is_none_is_refused_at_once(tmp_path: pathlib.Path, relayer: Any) -> None:
    for _ in range(2):
        # The file is free again.
        with pytest.raises(sw.InvalidArgument):
            sw.Client("http://127.0.0.1:9", outbox=tmp_path / "outbox.db", relayer=relayer)


def test_a_promise_counts_by_any_pinned_identity(world: World) -> None:
    forwards, marks = requests(world, 1, 31, users=1)
    with sw.Client(world.url, relayer=["0x" + "99" * 20, world.ready["relayer"]], poll=0.5) as client:
        accepted = client.submit(sw.Submission.forward(forwards[0]), 60)
        assert client.wait(accepted.id, timeout=300).is_success
    assert_once(world, marks)
