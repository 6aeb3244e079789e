"""What is claimed, checked: Merkle trees, the decision log of a real relayer, a relayer that lies."""

from __future__ import annotations

import json
import pathlib
import shutil
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator

import pytest
from conftest import MARK, ROOT, World, assert_once, requests, vectors
from eth_abi import encode
from eth_account import Account
from eth_utils import keccak

import slackwater as sw


def hexed(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_merkle_vectors() -> None:
    checked = 0
    for tree in vectors("merkle")["trees"]:
        root = hexed(tree["root"])
        for leaf in tree["leaves"]:
            content, siblings = hexed(leaf["content"]), [hexed(sibling) for sibling in leaf["proof"]]
            assert sw.merkle_leaf(content) == hexed(leaf["leaf"])
            assert sw.verify_merkle_proof(content, siblings, root)
            # A leaf is no content, a tree has one root, and each sibling counts.
            assert not sw.verify_merkle_proof(hexed(leaf["leaf"]), siblings, root)
            assert not sw.verify_merkle_proof(content, siblings, content)
            for at in range(len(siblings)):
                assert not sw.verify_merkle_proof(content, siblings[:at] + siblings[at + 1 :], root)
            checked += 1
    assert checked == 32
    for wrong in (lambda: sw.merkle_leaf(b"short"), lambda: sw.verify_merkle_proof(b"", [], bytes(32)),
                  lambda: sw.verify_merkle_proof(bytes(32), [b"1"], bytes(32)),
                  lambda: sw.verify_merkle_proof(bytes(32), [], bytes(31))):
        with pytest.raises(sw.InvalidArgument):
            wrong()


def decisions(world: World, folder: pathlib.Path) -> "tuple[dict[str, Any], list[dict[str, Any]]]":
    """The decision log as an operator hands it out, and the head that it starts from."""
    world.kill_relayer()
    for name in ("slackwater.db", "slackwater.db-wal"):
        if (pathlib.Path(world.data) / name).exists():
            shutil.copy(pathlib.Path(world.data) / name, folder / name)
    world.start_relayer()
    with sqlite3.connect(folder / "slackwater.db") as database:
        rows = database.execute("SELECT seq, at_ms, prev, hash, body FROM decisions ORDER BY seq").fetchall()
        (identity,) = database.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
    entries = [
        {"seq": seq, "at_ms": at_ms, "prev": "0x" + prev.hex(), "hash": "0x" + hash.hex(), "body": body}
        for seq, at_ms, prev, hash, body in rows
    ]
    # The log is bound to the relayer's identity.
    return {"seq": 0, "hash": "0x" + keccak(b"slackwater.decision.v1\0" + identity.encode()).hex()}, entries


def test_the_decision_log_of_a_relayer(world: World, tmp_path: pathlib.Path) -> None:
    forwards, marks = requests(world, 4, 20, users=1)
    with sw.Client(world.url, poll=0.2) as client:
        for forward in forwards:
            # One after the other: each has a decision of its own.
            client.wait(client.submit(sw.Submission.forward(forward), 60).id, until="included", timeout=300)
        client.wait_all([forward.id for forward in forwards], timeout=300)
    assert_once(world, marks)
    start, entries = decisions(world, tmp_path)
    assert len(entries) >= len(forwards)

    def check(entries: "list[dict[str, Any]]", start: "dict[str, Any]" = start) -> None:
        sw.verify_log(json.dumps(start), json.dumps(entries), json.dumps(published))

    published = {"seq": entries[-1]["seq"], "hash": entries[-1]["hash"]}
    check(entries)
    # A part of it, from a head that was published before.
    middle = len(entries) // 2
    check(entries[middle:], {"seq": entries[middle - 1]["seq"], "hash": entries[middle - 1]["hash"]})
    # Changed, without one, cut off, in another order, of another relayer.
    changed = {**entries[middle], "at_ms": entries[middle]["at_ms"] + 1}
    swapped = [*entries[:middle], entries[middle + 1], entries[middle], *entries[middle + 2 :]]
    for log, head in (
        ([*entries[:middle], changed, *entries[middle + 1 :]], start),
        (entries[:middle] + entries[middle + 1 :], start),
        (entries[:-1], start),
        (swapped, start),
        (entries, {"seq": 0, "hash": "0x" + "00" * 32}),
    ):
        with pytest.raises(sw.VerificationFailed) as caught:
            check(log, head)
        assert caught.value.code == "bad_log"
    # Two entries under a root that was anchored elsewhere.
    pair = [entries[middle], entries[-1]]
    leaves = [sw.merkle_leaf(hexed(entry["hash"])) for entry in pair]
    root = keccak(b"".join(sorted(leaves)))
    for entry, sibling in zip(pair, reversed(leaves)):
        proof = {"entry": entry, "siblings": ["0x" + sibling.hex()]}
        assert json.loads(sw.verify_log_proof(json.dumps(proof), root)) == json.loads(entry["body"])
        for wrong, top in (({**proof, "siblings": []}, root), (proof, bytes(32)),
                           ({**proof, "entry": {**entry, "body": entry["body"].replace(":", ": ", 1)}}, root)):
            with pytest.raises(sw.VerificationFailed):
                sw.verify_log_proof(json.dumps(wrong), top)


class Liar:
    """A relayer that promises in its own name, executes nothing, and says what it likes."""

    def __init__(self, chain_id: int, ids: "dict[int, str]", claim: "dict[str, Any]") -> None:
        self.identity = Account.create()
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = body.get("requests", [body])
                answers = [liar.accept(ids[int(one["forward"]["nonce"])], chain_id) for one in asked]
                if "requests" in body:
                    self.say(207, {"results": [{"status": 202, "accepted": one} for one in answers]})
                else:
                    self.say(202, answers[0])

            def do_GET(self) -> None:
                id = self.path.split("/")[3]
                now = int(time.time() * 1_000)
                if self.path.endswith("/events"):
                    event = {**claim, "seq": 1, "requestId": id, "requestSeq": 1, "chainId": chain_id, "atMs": now}
                    self.say(200, f"id: 1\ndata: {json.dumps(event)}\n\n", "text/event-stream")
                    return
                summary = {**liar.accept(id, chain_id), **claim, "kind": "forward", "target": "0x" + "77" * 20,
                           "updatedAtMs": now, "reason": None, "batch": None, "gasUsed": 1, "costWei": "1",
                           "reservedWei": "1", "attempts": [], "timeline": [
                               {**claim, "seq": 1, "requestId": id, "requestSeq": 1, "chainId": chain_id, "atMs": now}]}
                self.say(200, summary)

            def say(self, status: int, body: Any, kind: str = "application/json") -> None:
                text = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def accept(self, id: str, chain_id: int) -> "dict[str, Any]":
        now = int(time.time())
        promise = {"requestHash": id, "chainId": chain_id, "deadline": now + 60, "relayer": self.identity.address}
        types = {"InclusionPromise": [{"name": "requestHash", "type": "bytes32"}, {"name": "chainId", "type": "uint256"},
                                      {"name": "deadline", "type": "uint64"}, {"name": "relayer", "type": "address"}]}
        signed = self.identity.sign_typed_data({"name": "Slackwater", "version": "1"}, types, promise)
        return {"id": id, "status": "queued", "chainId": chain_id, "deadlineAtMs": (now + 60) * 1_000,
                "acceptedAtMs": now * 1_000, "promise": {**promise, "signature": "0x" + signed.signature.hex()},
                "quote": None, "duplicate": False}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def honest(world: World) -> "Iterator[tuple[sw.Forward, sw.types.Event]]":
    """A request that was executed, and what an honest relayer says of it."""
    forwards, _ = requests(world, 1, 21, users=1)
    with sw.Client(world.url, poll=0.5) as client:
        yield forwards[0], client.wait(client.submit(sw.Submission.forward(forwards[0]), 60).id, timeout=300)


@pytest.mark.parametrize("lie", ["in a transaction of somebody else", "in a transaction that nobody has seen"])
def test_a_relayer_that_lies_about_inclusion_is_caught(
    world: World, honest: "tuple[sw.Forward, sw.types.Event]", lie: str
) -> None:
    _, truth = honest
    forwards, marks = requests(world, 1, 22, users=1)
    tx_hash = truth.tx_hash if "somebody else" in lie else "0x" + "ab" * 32
    claim = {"status": "finalized", "txHash": tx_hash, "blockNumber": truth.block_number}
    liar = Liar(world.ready["chainId"], {0: forwards[0].id}, claim)
    node = sw.Node(world.rpc_url)
    try:
        # Who knows the relayer's identity is not even promised anything.
        with sw.Client(liar.url, relayer=world.ready["relayer"]) as client:
            with pytest.raises(sw.VerificationFailed) as caught:
                client.submit(sw.Submission.forward(forwards[0]), 60)
            assert caught.value.code == "bad_promise"
        # Who does not has a promise that is in order, by that name, and is told that it was kept.
        with sw.Client(liar.url, relayer=liar.identity.address, poll=0.2) as client:
            accepted = client.submit(sw.Submission.forward(forwards[0]), 60)
            told = client.wait(accepted.id, timeout=60)
            assert told.is_success and [change.event.status for change in client.follow(accepted.id)] == ["finalized"]
        verdict = node.check_inclusion(forwards[0], told, finality="depth", depth=1)
        assert verdict.kind == ("mismatch" if "somebody else" in lie else verdict.kind) and verdict.kind != "confirmed"
        assert verdict.kind in ("mismatch", "pending", "unknown") and not verdict.is_final, verdict
        with pytest.raises(sw.InvalidArgument):
            node.check_inclusion(honest[0], told)
    finally:
        node.close()
        liar.close()
    assert not [tag for _, tag in world.signed() if tag in marks], "nothing was executed"


def test_an_honest_claim_is_confirmed(world: World, honest: "tuple[sw.Forward, sw.types.Event]") -> None:
    forward, claim = honest
    node = sw.Node(world.rpc_url)
    verdict = node.check_inclusion(forward, claim, finality="depth", depth=1)
    assert (verdict.kind, verdict.is_success, verdict.block_number) == ("confirmed", True, claim.block_number), verdict
    node.close()


def execute_batch(forwarder: str, forward: "dict[str, Any]") -> "dict[str, str]":
    """A transaction that has a request executed, or said to be."""
    kind = "(address,address,uint256,uint256,uint48,bytes,bytes)"
    request = tuple(forward[name] for name in ("from", "to", "value", "gas", "deadline", "data", "signature"))
    arguments = encode([f"{kind}[]", "address"], [[request], "0x" + "00" * 20])
    return {"to": forwarder, "data": "0x" + (keccak(f"executeBatch({kind}[],address)".encode())[:4] + arguments).hex()}


#: A contract that answers 1 to everything: so it trusts every forwarder.
FLATTERER = "0x69600160005260206000f3600052600a6016f3"


def test_an_event_of_a_fake_forwarder_confirms_nothing(world: World) -> None:
    """It has a domain and nonces, calls nobody, and emits the event: the lie of a relayer that chooses the forwarder."""
    code = (ROOT / "bindings/contracts/artifacts/FakeForwarder.creation.hex").read_text().strip()
    fake = world.deploy("0x" + code + encode(["string"], ["Looks Fine"]).hex())
    flatterer, book = world.deploy(FLATTERER), world.ready["guestbook"]
    node, key = sw.Node(world.rpc_url), sw.Key(bytes([77]) * 32)
    entries = world.signed()
    deadline = int(time.time()) + 3_600

    def refused(to: str, pinned: bool) -> str:
        with pytest.raises(sw.VerificationFailed) as caught:
            node.prepare(fake, key.address, to, deadline=deadline, pinned=pinned)
        return caught.value.code

    # Before anything is signed.
    assert [refused(book, pinned) for pinned in (False, True)] == ["untrusted_forwarder"] * 2
    assert refused(flatterer, False) == "unknown_forwarder"
    assert node.prepare(fake, key.address, flatterer, deadline=deadline, pinned=True).nonce == 0
    honest = node.prepare(world.ready["forwarder"], key.address, book, deadline=deadline, data=b"x")
    assert (honest.nonce, honest.sender) == (0, key.address)
    with pytest.raises(sw.VerificationFailed) as caught:
        node.trusted_domain(world.ready["forwarder"], flatterer, chain_id=1)
    assert caught.value.code == "wrong_chain"

    # Signed all the same, "executed", and claimed to be.
    for target, nonce, kinds in ((book, 0, ("untrusted_forwarder",) * 2), (flatterer, 1, ("unknown_forwarder", "confirmed"))):
        unsigned = sw.UnsignedForward(node.domain(fake), key.address, target, nonce=nonce, deadline=deadline, data=MARK + bytes(32))
        forward = sw.sign(unsigned, key)
        content = {"from": key.address, "to": target, "value": 0, "gas": 200_000, "deadline": deadline,
                   "data": MARK + bytes(32), "signature": forward.signature}
        call = {"from": world.rpc("eth_accounts")[-1], **execute_batch(fake, content)}
        receipt = world.mined(world.rpc("eth_sendTransaction", call))
        assert receipt["status"] == "0x1"
        claim = sw.types.Event(
            tenant="default",
            seq=1, request_id=forward.id, request_seq=1, chain_id=world.ready["chainId"], status="finalized",
            at_ms=0, tx_hash=receipt["transactionHash"], block_number=int(receipt["blockNumber"], 16),
        )
        found = [node.check_inclusion(forward, claim, finality="depth", depth=0, pinned=pinned) for pinned in (False, True)]
        assert tuple(verdict.kind for verdict in found) == kinds, found
        assert found[0].binding is None and found[0].detail
    assert world.signed() == entries, "nothing happened"
    node.close()
