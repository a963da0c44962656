"""Reading and writing an open image."""

import pytest
import trio
from image.conftest import MIB, Pools, until

from rbdfs.errors import Exists, InvalidArgument, NotFound, RbdfsError, ReadOnly
from rbdfs.image import directory, snapshots
from rbdfs.image.header import read_header
from rbdfs.image.image import ImageChange, open_image
from rbdfs.rados.ops import Buffer


async def test_what_is_written_is_read_and_the_rest_is_zero(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 16 * MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(4 * MIB - 3, b"across")
            assert await image.read(4 * MIB - 5, 10) == b"\0\0across\0\0"
            assert await image.read(16 * MIB - 2, 10) == b"\0\0"
            assert await image.read(20 * MIB, 10) == b""


async def test_bytes_outlive_the_image_and_the_store(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await image.write(17, b"kept")
    async with pools.client() as ioctx, open_image(ioctx, "vm") as image:
        assert await image.read(17, 4) == b"kept"


async def test_write_past_the_end_grows_to_the_byte(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 10)
        async with open_image(ioctx, "vm") as image:
            await image.write(9 * MIB + 1, b"far")
            assert image.size == 9 * MIB + 4
        async with open_image(ioctx, "vm") as image:
            assert image.size == 9 * MIB + 4
            assert await image.read(9 * MIB, 10) == b"\0far"


async def test_striped_image_holds_its_bytes(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 3 * MIB, order=16, stripe_unit=4096, stripe_count=3)
        data = bytes(range(256)) * 2000
        async with open_image(ioctx, "vm") as image:
            await image.write(777, data)
            assert await image.read(777, len(data)) == data
            await image.write_zeroes(5000, 300_000)
            assert await image.read(777, len(data)) == data[:4223] + bytes(300_000) + data[304_223:]
            await image.resize(100_001)
            await image.resize(3 * MIB)
            assert await image.read(777, 10_000) == (data[:4223] + bytes(5777))
            assert not any(await image.read(10_000, 3 * MIB))


async def test_data_in_another_pool(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await ioctx.cluster.create_pool("fast")
        image_id = await directory.create(ioctx, "vm", MIB, data_pool="fast")
        async with open_image(ioctx, "vm") as image:
            await image.write(0, b"there")
        other = await ioctx.cluster.open_pool("fast")
        assert [name async for name in other.list_objects()] == [f"rbd_data.{ioctx.pool_id}.{image_id}.{0:016x}"]


async def test_many_submitted_writes_all_complete(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 32 * MIB, order=16)
        async with open_image(ioctx, "vm") as image:
            errors: list[RbdfsError | None] = []
            for number in range(200):
                image.submit_write(number * 40_000, number.to_bytes(2, "big") * 20_000, errors.append)
            await image.flush()
            assert errors == [None] * 200
            reads: list[list[Buffer] | RbdfsError] = []
            all_read = trio.Event()

            def on_read(result: list[Buffer] | RbdfsError) -> None:
                reads.append(result)
                if len(reads) == 200:
                    all_read.set()

            for number in range(200):
                image.submit_read(number * 40_000, 40_000, on_read)
            with trio.fail_after(5):
                await all_read.wait()
            expected = [number.to_bytes(2, "big") * 20_000 for number in range(200)]
            assert sorted(b"".join(buffers) for buffers in reads if isinstance(buffers, list)) == expected


async def test_growing_does_not_cut_off_what_is_written_meanwhile(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", 0)
        async with open_image(ioctx, "vm") as image:
            outcomes: list[object] = []
            for number in range(10):
                image.submit_write(number * MIB, b"x" * MIB, outcomes.append)
            assert image.size == 0
            await image.grow(5 * MIB)
            await until(lambda: len(outcomes) == 10)
            assert outcomes == [None] * 10
            assert image.size == 10 * MIB
            await image.grow(12 * MIB)
            await image.grow(11 * MIB)
            assert image.size == 12 * MIB
            assert await image.read(9 * MIB, 2 * MIB) == b"x" * MIB + bytes(MIB)


async def test_snapshot_cannot_be_written(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            await snapshots.create(image, "s")
        modified = (await read_header(ioctx, image.image_id)).modify_timestamp
        async with open_image(ioctx, "vm", snap_name="s") as image:
            with pytest.raises(ReadOnly):
                await image.write(0, b"no")
            with pytest.raises(ReadOnly):
                await image.write_zeroes(0, 10)
            with pytest.raises(ReadOnly):
                await image.resize(5)
        assert (await read_header(ioctx, image.image_id)).modify_timestamp == modified


async def test_read_only_image_refuses_writes_and_takes_no_lock(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm", read_only=True) as image:
            with pytest.raises(ReadOnly):
                await image.write(0, b"no")
            assert (await image.status()).lockers == []


async def test_closed_image_answers_with_an_error(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            pass
        results: list[object] = []
        image.submit_write(0, b"late", results.append)
        assert isinstance(results[0], RbdfsError)


async def test_missing_names(pools: Pools) -> None:
    async with pools.client() as ioctx:
        with pytest.raises(NotFound, match="data/vm"):
            async with open_image(ioctx, "vm"):
                pass
        await directory.create(ioctx, "vm", MIB)
        with pytest.raises(NotFound, match="data/vm@s"):
            async with open_image(ioctx, "vm", snap_name="s"):
                pass


async def test_error_of_the_block_comes_out_as_it_is(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        with pytest.raises(ZeroDivisionError):
            async with open_image(ioctx, "vm"):
                raise ZeroDivisionError


async def test_negative_offsets_are_refused(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            for attempt in (image.read(-1, 5), image.write(-1, b"x"), image.write_zeroes(-1, 5), image.resize(-1)):
                with pytest.raises(InvalidArgument):
                    await attempt


async def test_subscribers_hear_what_another_handle_changes(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image, open_image(ioctx, "vm") as other:
            heard: list[ImageChange] = []
            image.subscribe(heard.append)
            await other.resize(2 * MIB)
            await snapshots.create(other, "s")
            await directory.rename(ioctx, "vm", "new")
            await until(lambda: image.name == "new")
            assert image.size == 2 * MIB
            assert [snap.name for snap in image.header.snaps] == ["s"]
            told = ImageChange(0)
            for change in heard:
                told |= change
            assert ImageChange.SIZE | ImageChange.SNAPSHOTS | ImageChange.NAME in told


async def test_timestamps_follow_use(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            created = image.header.create_timestamp
            await trio.sleep(0.01)
            await image.write(0, b"now")
            await until(lambda: image.header.modify_timestamp > created)
            written = image.header.modify_timestamp
            await image.resize(5)
        async with open_image(ioctx, "vm") as image:
            assert image.header.modify_timestamp > written


async def test_metadata(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        async with open_image(ioctx, "vm") as image:
            for number in range(100):
                await image.metadata_set(f"key{number:03}", f"välue {number}")
            assert await image.metadata_list() == {f"key{number:03}": f"välue {number}" for number in range(100)}
            assert await image.metadata_get("key007") == "välue 7"
            await image.metadata_remove("key007")
            with pytest.raises(NotFound):
                await image.metadata_get("key007")
            with pytest.raises(NotFound):
                await image.metadata_remove("key007")


async def test_copy_range_copies_data_and_holes(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "source", 9 * MIB)
        await directory.create(ioctx, "target", MIB)
        async with open_image(ioctx, "source") as source, open_image(ioctx, "target") as target:
            await source.write(100, b"a" * 200_000)
            await source.write(5 * MIB, b"b" * MIB)
            await target.write(0, b"z" * MIB)
            assert await target.copy_range(source, 50, 1000, 20 * MIB) == 9 * MIB - 50
            assert await target.read(0, 1000) == b"z" * 1000
            assert await target.read(1000, target.size) == await source.read(50, source.size)
            assert target.size == 9 * MIB + 950
            with pytest.raises(InvalidArgument):
                await source.copy_range(source, 0, 10, 100)
            await source.copy_range(source, 0, 3 * MIB, 300_000)
            assert await source.read(3 * MIB, 300_000) == await source.read(0, 300_000)


async def test_copied_bytes_are_independent(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "source", 8 * MIB)
        await directory.create(ioctx, "target", 0)
        async with open_image(ioctx, "source") as source, open_image(ioctx, "target") as target:
            await source.write(0, b"a" * (8 * MIB))
            before = await source.allocated_bytes()
            await target.copy_range(source, 0, 0, 8 * MIB)
            await source.write(5, b"source")
            await target.write(5 * MIB, b"target")
            assert await source.read(5 * MIB, 6) == b"aaaaaa"
            assert await target.read(5, 6) == b"aaaaaa"
            assert before == 8 * MIB


async def test_creating_twice(pools: Pools) -> None:
    async with pools.client() as ioctx:
        await directory.create(ioctx, "vm", MIB)
        with pytest.raises(Exists):
            await directory.create(ioctx, "vm", MIB)
        assert len([name async for name in ioctx.list_objects()]) == 4  # directory, id, header, object map
