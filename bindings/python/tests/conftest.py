"""What the tests stand on: anvil, and the relayer's binary with it, which can be killed and come back."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from typing import Any, Callable, Iterator, Optional

import pytest
from eth_account import Account

import slackwater as sw

ROOT = pathlib.Path(__file__).resolve().parents[3]


def vectors(name: str) -> Any:
    return json.loads((ROOT / "core/pure/tests/vectors" / f"{name}.json").read_text())


def line_of(process: "subprocess.Popen[str]", start: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line.strip()
    raise AssertionError(f"{process.args} ended with {process.wait()}")


class World:
    def __init__(self) -> None:
        self.data = tempfile.mkdtemp(prefix="slackwater-python-")
        self._anvil = subprocess.Popen(
            [os.environ["SLACKWATER_ANVIL"], "--host", "127.0.0.1", "--port", "0", "--block-time", "1", "--order", "fees"],
            stdout=subprocess.PIPE, text=True,
        )
        self.rpc_url = "http://" + line_of(self._anvil, "Listening on ").split()[-1]
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.relayer: Optional["subprocess.Popen[str]"] = None
        self.start_relayer()

    def start_relayer(self) -> None:
        # The relayer takes every variable of that prefix for configuration.
        env = {key: value for key, value in os.environ.items() if not key.startswith("SLACKWATER_")}
        self.relayer = subprocess.Popen(
            [os.environ["SLACKWATER_BIN"], "dev", "--json", "--rpc", self.rpc_url, "--listen",
             f"127.0.0.1:{self._port}", "--data", self.data],
            stdout=subprocess.PIPE, text=True, env=env,
        )
        self.ready = json.loads(line_of(self.relayer, "{"))

    def kill_relayer(self) -> None:
        assert self.relayer is not None
        self.relayer.kill()
        self.relayer.wait()

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def rpc(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.rpc_url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["result"]

    def deploy(self, code: str) -> str:
        """A contract, by an account that the relayer does not use."""
        sender = self.rpc("eth_accounts")[-1]
        return str(self.mined(self.rpc("eth_sendTransaction", {"from": sender, "data": code}))["contractAddress"])

    def mined(self, tx_hash: str) -> Any:
        """A transaction's receipt, once it has one."""
        return eventually("mined", lambda: self.rpc("eth_getTransactionReceipt", tx_hash))

    def signed(self) -> list[tuple[str, str]]:
        """Every entry in the guest book, by the chain's logs: user, tag."""
        logs = self.rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": self.ready["guestbook"]})
        return [("0x" + log["topics"][1][-40:], log["topics"][2]) for log in logs]

    def stop(self) -> None:
        for process in (self.relayer, self._anvil):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait()
        shutil.rmtree(self.data, ignore_errors=True)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.stop()


def eventually(what: str, check: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


MARK = bytes.fromhex("ee02438e")


def requests(world: World, count: int, tag: int, users: int = 10) -> "tuple[list[sw.Forward], dict[str, str]]":
    """Marks with a tag each, of new users; and which user marks which tag."""
    node = sw.Node(world.rpc_url)
    domain = node.domain(world.ready["forwarder"])
    assert (domain.name, domain.chain_id) == (world.ready["forwarderName"], world.ready["chainId"])
    accounts = [Account.create() for _ in range(users)]
    assert node.nonce(world.ready["forwarder"], accounts[0].address) == 0
    node.close()
    made, marks = [], {}
    for index in range(count):
        account, word = accounts[index % users], (tag << 32 | index).to_bytes(32, "big")
        unsigned = sw.UnsignedForward(
            domain, account.address, world.ready["guestbook"], nonce=index // users,
            deadline=int(time.time()) + 3_600, data=MARK + word,
        )
        made.append(sw.sign(unsigned, account.unsafe_sign_hash))
        marks["0x" + word.hex()] = account.address.lower()
    return made, marks


def assert_once(world: World, marks: "dict[str, str]") -> None:
    found = Counter((tag, user.lower()) for user, tag in world.signed() if tag in marks)
    assert found == Counter(marks.items())
