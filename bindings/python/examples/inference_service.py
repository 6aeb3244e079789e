"""An inference service that puts the hash of each result on a chain, and never makes a caller wait for it.

    python inference_service.py --relayer http://127.0.0.1:7700 --node http://127.0.0.1:8545 --forwarder 0x… --guestbook 0x…

`POST {"prompt": "…"}` answers the result and its hash at once. The request is signed here, kept in the outbox's file, and
relayed in batches; a crash of this service or of the relayer loses none and sends none twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import slackwater as sw

MARK = bytes.fromhex("ee02438e")  # mark(bytes32) of the guest book


def infer(prompt: str) -> str:
    """Where a model would be."""
    return prompt[::-1]


class Notary:
    """Relays hashes."""

    def __init__(self, args: argparse.Namespace) -> None:
        # A key of this run: whatever an earlier run has signed under another outbox is none of its business.
        self.key = sw.Key(os.urandom(32))
        self.node = sw.Node(args.node)
        self.target = args.guestbook
        # The forwarder is an argument, and not the relayer's word: still, the target must trust it.
        self.domain = self.node.trusted_domain(args.forwarder, self.target, pinned=True)
        self.client = sw.Client(args.relayer, outbox=args.outbox, on_outcome=self.report)

    def relay(self, digest: bytes) -> str:
        """Signs and hands over. Waits for nothing but, the first time, the key's nonce."""
        deadline = int(time.time()) + 3_600
        ticket = self.client.send(self.node, self.key, self.domain, self.target, deadline=deadline, data=MARK + digest)
        assert ticket.id is not None
        return ticket.id

    @staticmethod
    def report(ticket: sw.Ticket) -> None:
        """Called once the relayer has promised, or refused."""
        try:
            print("promised", ticket.result(0).id, flush=True)
        except sw.SlackwaterError as error:
            print("failed", error.code, error, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("relayer", "node", "forwarder", "guestbook"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--outbox", default="outbox.db")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    notary = Notary(args)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = min(int(self.headers.get("content-length", 0)), 1 << 20)
            result = infer(json.loads(self.rfile.read(length))["prompt"])
            digest = hashlib.sha256(result.encode()).digest()
            answer = {"result": result, "hash": "0x" + digest.hex(), "request": notary.relay(digest)}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
