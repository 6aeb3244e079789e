"""The example in the README does what it says, as it stands there."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys

from conftest import ROOT, World

MARK = "ee02438e"


def test_the_example_in_the_readme(world: World) -> None:
    readme = (ROOT / "bindings/python/README.md").read_text()
    found = re.search(r"```python\n(.*?)```", readme, re.S)
    assert found
    code = found[1].replace("http://127.0.0.1:8545", world.rpc_url).replace("http://127.0.0.1:7700", world.url)
    tag = secrets.token_hex(32)
    given = {
        "FORWARDER": world.ready["forwarder"],
        "SECRET": "0x" + secrets.token_hex(32),
        "TARGET": world.ready["guestbook"],
        "CALLDATA": bytes.fromhex(MARK + tag),
        "IDENTITY": world.ready["relayer"],
    }
    names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    # A fresh environment with nothing but the released wheel, where `cargo xtask python` has made one.
    python = os.environ.get("SLACKWATER_README_PYTHON", sys.executable)
    where = os.path.join(world.data, "readme")
    os.makedirs(where, exist_ok=True)
    said = "\nimport sys; print(len(sys.modules), sw.__file__, end.status)"
    done = subprocess.run([python, "-I", "-c", names + code + said], cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[2] == "finalized"
    assert [user for user, marked in world.signed() if marked == "0x" + tag], "on the chain"
