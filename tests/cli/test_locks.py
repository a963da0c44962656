"""`rbdfs lock` on a local store."""

import json

from cli.conftest import Run


def lockers(pool: Run) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(pool("lock", "ls", "data/vm", "--format", "json").out)
    return found


def test_a_locked_image_is_not_written_until_the_lock_is_taken_away(pool: Run) -> None:
    pool("create", "data/vm", "-s", "1M")
    assert pool("lock", "ls", "data/vm").out == ""
    assert pool("lock", "add", "data/vm", "mine").code == 0
    [row] = lockers(pool)
    assert row["id"] == "mine"
    assert pool("lock", "ls", "data/vm").out.splitlines()[0] == "There is 1 exclusive lock on this image."
    refused = pool("resize", "data/vm", "-s", "2M")
    assert refused.code == 16
    assert "mine" in refused.err
    assert pool("lock", "add", "data/vm", "other").code == 16
    assert pool("lock", "rm", "data/vm", "mine", row["locker"]).code == 0
    assert lockers(pool) == []
    assert pool("resize", "data/vm", "-s", "2M").code == 0


def test_a_lock_may_be_shared(pool: Run) -> None:
    pool("create", "data/vm", "-s", "1M")
    for name in ("one", "two"):
        assert pool("lock", "add", "data/vm", name, "--shared", "tag").code == 0
    assert pool("lock", "add", "data/vm", "three", "--shared", "another").code == 16
    assert pool("lock", "ls", "data/vm").out.startswith("There are 2 shared locks on this image.\nLock tag: tag\n")
