"""Inode numbers, and how long they are remembered."""

import pytest

from rbdfs.fuse import inodes
from rbdfs.fuse.inodes import Inodes, Kind
from rbdfs.rados.ops import SnapId


def test_numbers_are_the_same_in_every_mount() -> None:
    first, second = Inodes(), Inodes()
    assert first.image("abc", "disk").number == second.image("abc", "renamed").number
    assert first.snapshot("abc", "disk", SnapId(4), "s").number == second.snapshot("abc", "disk", SnapId(4), "t").number


def test_everything_has_a_number_of_its_own() -> None:
    table = Inodes()
    made = [table.root, table.snap_root, table.image("a", ""), table.snap_directory("a", ""), table.image("b", "")]
    made += [table.snapshot("a", "", SnapId(number), "") for number in range(1, 20)]
    assert len({inode.number for inode in made}) == len(made)


def test_kernel_s_references_are_counted() -> None:
    table = Inodes()
    inode = table.image("a", "disk")
    table.remember(inode)
    table.remember(table.image("a", "disk"))
    table.forget(inode.number, 1)
    assert table[inode.number] is inode
    table.forget(inode.number, 1)
    with pytest.raises(KeyError):
        table[inode.number]
    table.forget(inode.number, 1)  # forgotten twice: no harm
    table.forget(table.root.number, 10)
    assert table[table.root.number] is table.root


def test_an_inode_follows_the_name_of_its_image() -> None:
    table = Inodes()
    inode = table.image("a", "before")
    table.remember(inode)
    assert table.image("a", "after") is inode
    assert inode.image_name == "after"
    assert table.known(Kind.IMAGE, "a") == [inode]


def test_hashes_that_meet_get_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def digest(self) -> bytes:
            return bytes(8)

    monkeypatch.setattr(inodes.hashlib, "blake2b", lambda *args, **kwargs: Same())
    table = Inodes()
    first, second = table.image("a", ""), table.image("b", "")
    table.remember(first)
    second = table.image("b", "")
    table.remember(second)
    assert first.number != second.number
    assert table.image("a", "") is first
    assert table.image("b", "") is second
