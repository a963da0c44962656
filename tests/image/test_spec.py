"""Names as a user writes them."""

import pytest

from rbdfs.errors import InvalidArgument
from rbdfs.image.spec import ImageSpec, PoolSpec, check_image_name, check_snap_name


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("vm", ImageSpec("rbd", "", "vm")),
        ("vm@s", ImageSpec("rbd", "", "vm", "s")),
        ("data/vm", ImageSpec("data", "", "vm")),
        ("data/ns/vm@s", ImageSpec("data", "ns", "vm", "s")),
        ("data//vm", ImageSpec("data", "", "vm")),
        ("data/a b.raw", ImageSpec("data", "", "a b.raw")),
    ],
)
def test_image_spec_reads_what_rbd_reads(text: str, spec: ImageSpec) -> None:
    assert ImageSpec.parse(text) == spec


def test_what_is_not_named_is_the_default() -> None:
    assert ImageSpec.parse("vm", "data", "ns") == ImageSpec("data", "ns", "vm")
    assert ImageSpec.parse("other/vm", "data", "ns") == ImageSpec("other", "ns", "vm")
    assert ImageSpec.parse("other//vm", "data", "ns") == ImageSpec("other", "", "vm")


@pytest.mark.parametrize("text", ["", "@s", "a@b@c", "data/", "/vm", "a/b/c/d", "vm@", "data/ns/vm@a/b"])
def test_image_spec_refuses_the_rest(text: str) -> None:
    with pytest.raises(InvalidArgument):
        ImageSpec.parse(text)


@pytest.mark.parametrize("text", ["data/vm", "data/ns/vm@s"])
def test_image_spec_gives_its_text_back(text: str) -> None:
    assert str(ImageSpec.parse(text)) == text


def test_pool_spec() -> None:
    assert PoolSpec.parse("data/ns") == PoolSpec("data", "ns")
    assert str(PoolSpec.parse("data")) == "data"
    with pytest.raises(InvalidArgument):
        PoolSpec.parse("a/b/c")


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a\0b"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_image_name(name)
    with pytest.raises(InvalidArgument):
        check_snap_name(name)
