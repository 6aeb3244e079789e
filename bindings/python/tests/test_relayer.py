"""Against the real relayer and a real chain."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

import pytest
from conftest import ROOT, World, assert_once, eventually, requests

import slackwater as sw

def test_reading(world: World) -> None:
    with sw.Client(world.url) as client:
        chains = client.chains()
        assert chains.relayer.lower() == world.ready["relayer"].lower()
        chain_id = chains.chains[0].chain_id
        quote = client.quote(chain_id, 100_000, within=30)
        assert quote.max_cost_wei >= quote.expected_cost_wei > 0 and type(quote.max_cost_wei) is int
        assert client.fees(chain_id).chain_id == chain_id
        with pytest.raises(sw.Refused) as caught:
            client.request("0x" + "ab" * 32)
        assert caught.value.code == "not_found" and not caught.value.is_retryable


def test_burst_to_finality_exactly_once(world: World) -> None:
    forwards, marks = requests(world, 200, 1)
    submissions = [sw.Submission.forward(forward) for forward in forwards]
    with sw.Client(world.url, relayer=world.ready["relayer"], poll=0.5) as client:
        tickets = client.burst(submissions)
        # The same again is the same entry.
        assert [ticket.key for ticket in client.burst(submissions)] == [ticket.key for ticket in tickets]
        accepted = [ticket.result(120) for ticket in tickets]
        assert [one.id for one in accepted] == [forward.id for forward in forwards]
        ends = client.wait_all([one.id for one in accepted], timeout=300)
        assert Counter(end.status for end in ends) == {"finalized": 200}
        assert client.entries() == []
        changes = [change.event.status for change in client.follow(accepted[0].id)]
        assert changes[0] == "queued" and changes[-1] == "finalized"
        node = sw.Node(world.rpc_url)
        verdict = node.check_inclusion(forwards[0], ends[0], finality="depth", depth=1)
        assert (verdict.kind, verdict.is_success, verdict.binding) == ("confirmed", True, "content"), verdict
        lie = node.check_inclusion(forwards[0], ends[0].__class__(**{**vars(ends[0]), "tx_hash": "0x" + "12" * 32}))
        assert lie.kind != "confirmed"
    assert_once(world, marks)


def test_promise_of_somebody_else_is_refused(world: World) -> None:
    forwards, _ = requests(world, 1, 2, users=1)
    with sw.Client(world.url, relayer="0x" + "99" * 20) as client:
        with pytest.raises(sw.VerificationFailed) as caught:
            client.submit(sw.Submission.forward(forwards[0]), timeout=60)
        assert caught.value.code == "bad_promise" and caught.value.is_ambiguous


def test_relayer_killed_in_mid_burst(world: World, tmp_path: pathlib.Path) -> None:
    forwards, marks = requests(world, 200, 3)
    outcomes: "list[sw.Ticket]" = []
    with sw.Client(world.url, outbox=tmp_path / "outbox.db", max_batch_items=10, poll=0.5) as client:
        with pytest.raises(sw.OutboxRefused) as caught:
            sw.Client(world.url, outbox=tmp_path / "outbox.db")
        assert caught.value.code == "outbox_in_use"
        tickets = client.burst((sw.Submission.forward(forward) for forward in forwards), on_outcome=outcomes.append)
        eventually("some are accepted", lambda: len(outcomes) >= 10)
        world.kill_relayer()
        assert len(outcomes) < 200, "killed too late to show anything"
        world.start_relayer()
        eventually("all are accepted", lambda: len(outcomes) == 200, 180)
        assert all(ticket.result(0).id for ticket in tickets)
        ends = client.wait_all([forward.id for forward in forwards], timeout=300)
        assert Counter(end.status for end in ends) == {"finalized": 200}
        eventually("the outbox is empty", lambda: not client.entries())
    assert_once(world, marks)


def test_process_killed_in_mid_burst(world: World, tmp_path: pathlib.Path) -> None:
    """The outbox's file is all that is left of a process; the next one goes on."""
    forwards, marks = requests(world, 40, 4)
    world.kill_relayer()
    bodies = [sw.Submission.forward(forward) for forward in forwards]
    first = sw.Client(world.url, outbox=tmp_path / "outbox.db")
    first.burst(bodies)
    eventually("all are stored", lambda: all(entry.state != "storing" for entry in first.entries()))
    first.close(timeout=60)
    world.start_relayer()
    with sw.Client(world.url, outbox=tmp_path / "outbox.db", poll=0.5) as second:
        left = second.tickets()
        assert {ticket.key for ticket in left} == {body.key for body in bodies}
        accepted = [ticket.result(120) for ticket in left]
        ends = second.wait_all([one.id for one in accepted], timeout=300)
        assert Counter(end.status for end in ends) == {"finalized": 40}
    assert_once(world, marks)


def test_asyncio_never_blocks_the_loop(world: World) -> None:
    forwards, marks = requests(world, 50, 5)

    async def main() -> None:
        gaps: "list[float]" = []

        async def tick() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        ticker = asyncio.create_task(tick())
        async with sw.AsyncClient(world.url, poll=0.5) as client:
            submissions = [sw.Submission.forward(forward) for forward in forwards]
            accepted = await asyncio.gather(*(client.submit(one) for one in submissions))
            seen = [change.event.status async for change in client.follow(accepted[0].id)]
            assert seen[-1] == "finalized"
            ends = await client.wait_all([one.id for one in accepted])
            assert Counter(end.status for end in ends) == {"finalized": 50}
        ticker.cancel()
        # Seconds passed until finality; had anything waited in the loop, it would not have ticked.
        assert len(gaps) > 50 and sorted(gaps)[len(gaps) * 9 // 10] < 0.5, (len(gaps), max(gaps))

    asyncio.run(main())
    assert_once(world, marks)


def test_unreachable_relayer() -> None:
    with sw.Client("http://127.0.0.1:9") as client:
        call: Any = ("GET", "/v1/chains", [], None)
        assert client._transport.send(call)[0] == "unreachable"


def test_inference_service(world: World, tmp_path: pathlib.Path) -> None:
    config = {"rpc": world.rpc_url, **world.ready}
    service = subprocess.Popen(
        [sys.executable, str(ROOT / "bindings/python/examples/inference_service.py"), "--relayer", world.url, "--node",
         world.rpc_url, "--forwarder", config["forwarder"], "--guestbook", config["guestbook"], "--outbox",
         str(tmp_path / "outbox.db"), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )
    try:
        assert service.stdout is not None
        url = service.stdout.readline().split()[-1]
        hashes = []
        for prompt in ("one", "two", "three"):
            request = urllib.request.Request(url, json.dumps({"prompt": prompt}).encode())
            with urllib.request.urlopen(request, timeout=30) as answer:
                hashes.append(json.loads(answer.read())["hash"])
        eventually("each hash is on the chain once", lambda: sorted(tag for _, tag in world.signed() if tag in hashes)
                   == sorted(hashes))
    finally:
        service.terminate()
        service.wait()
