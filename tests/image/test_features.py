"""Images with features that we do not write, or cannot even read."""

import calls
import pytest
from image.conftest import MIB, Pools

from rbdfs.cls import rbd
from rbdfs.cls.query import change
from rbdfs.cls.rbd_types import ParentImageSpec
from rbdfs.errors import NotSupported, ReadOnly, TooLarge
from rbdfs.image import directory, snapshots
from rbdfs.image.features import Feature, ImageFlag, check_readable, feature_names, forbids_writing
from rbdfs.image.header import read_header
from rbdfs.image.image import open_image
from rbdfs.rados.api import IoCtx


async def make(ioctx: IoCtx, features: int) -> str:
    """An image `vm`, whatever its features; gives its id."""
    image_id = await directory.create(ioctx, "vm", MIB, features=Feature.LAYERING)
    await calls.remove(ioctx, f"rbd_header.{image_id}")
    await change(ioctx, f"rbd_header.{image_id}", rbd.create(MIB, 22, features, f"rbd_data.{image_id}"))
    return image_id


def test_names_are_those_of_rbd() -> None:
    assert feature_names(61) == ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"]
    assert feature_names(Feature.STRIPINGV2 | Feature.DATA_POOL | 1 << 20) == ["striping", "data-pool", "feature-20"]


def test_features_of_a_newer_store_are_refused_as_it_says() -> None:
    check_readable(61, incompatible=1, what="x")
    with pytest.raises(NotSupported, match="x: feature feature-30 is not supported"):
        check_readable(61 | 1 << 30, incompatible=1 | 1 << 30, what="x")
    check_readable(61 | 1 << 30, incompatible=1, what="x")
    assert forbids_writing(61 | 1 << 30) == ["feature-30"]
    assert forbids_writing(61, op_features=0xF | 1 << 9) == ["operation-9"]


async def test_journaled_image_is_read_only(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await make(ioctx, 61 | Feature.JOURNALING)
        async with open_image(ioctx, "vm") as image:
            assert image.is_read_only
            assert await image.read(0, 4) == bytes(4)
            for refused in (
                image.write(0, b"x"),
                image.resize(5),
                image.write_zeroes(0, 5),
                snapshots.create(image, "s"),
            ):
                with pytest.raises(ReadOnly, match="journaling"):
                    await refused
        with pytest.raises(ReadOnly, match="journaling"):
            await directory.remove(ioctx, "vm")


@pytest.mark.parametrize("feature", [Feature.DIRTY_CACHE, Feature.MIGRATING])
async def test_layouts_that_we_do_not_know_are_not_read(pools: Pools, feature: Feature) -> None:
    async with pools.client() as ioctx:
        image_id = await make(ioctx, 61 | feature)
        assert (await read_header(ioctx, image_id)).features & feature
        with pytest.raises(NotSupported, match=feature.rbd_name):
            async with open_image(ioctx, "vm"):
                pass


async def test_clones_are_shown_and_not_read(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", MIB)
        parent = ParentImageSpec(ioctx.pool_id, "", "1234", 7)
        await change(ioctx, f"rbd_header.{image_id}", rbd.attach_parent(parent, MIB // 2))
        header = await read_header(ioctx, image_id)
        assert header.parent is not None
        assert (header.parent.image_id, header.parent.snap_id, header.parent.overlap) == ("1234", 7, MIB // 2)
        with pytest.raises(NotSupported, match="clones"):
            async with open_image(ioctx, "vm"):
                pass


async def test_feature_turned_on_while_open_ends_writing(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x")
            await change(ioctx, f"rbd_header.{image_id}", rbd.set_features(Feature.JOURNALING, Feature.JOURNALING))
            await image.refresh()
            with pytest.raises(ReadOnly, match="journaling"):
                await image.write(0, b"y")
            assert await image.read(0, 1) == b"x"


async def test_object_map_turned_off_while_open_is_not_used_any_more(pools: Pools) -> None:
    async with pools.client() as ioctx:
        image_id = await directory.create(ioctx, "vm", 8 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"x")
            flags = ImageFlag.OBJECT_MAP_INVALID
            await change(ioctx, f"rbd_header.{image_id}", rbd.set_flags(flags, flags))
            await image.refresh()
            await image.write(5 * MIB, b"y")
            assert await image.read(5 * MIB, 1) == b"y"
            assert await image.seek_data(MIB) == 5 * MIB


async def test_sizes_have_a_bound(pools: Pools) -> None:
    async with pools.client() as ioctx:
        with pytest.raises(TooLarge):
            await directory.create(ioctx, "vm", 2**63, features=Feature.LAYERING)
        with pytest.raises(TooLarge, match="object map"):
            await directory.create(ioctx, "vm", 2**60)
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            with pytest.raises(TooLarge):
                await image.resize(2**60)
            with pytest.raises(TooLarge):
                await image.write(2**60, b"far")
            assert image.size == MIB
