"""What the outbox leaves on a disk."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

import slackwater as sw


@pytest.mark.skipif(os.name != "posix", reason="there are no modes")
def test_an_outbox_is_for_its_owner_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "outbox.db"
    before = os.umask(0o022)
    try:
        storage = sw.FileStorage(path)
        storage.apply([("key", "signed")], [])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        storage.close()
        # One that was made by an older version, or copied.
        path.chmod(0o644)
        storage = sw.FileStorage(path)
        assert list(storage.load()) == [("key", "signed")]
        storage.close()
    finally:
        os.umask(before)
    assert modes["outbox.db"] == 0o600 and set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
