"""A store directory: making one, opening its engine, and closing it in order.

    lock            flock: whoever holds it owns the store
    socket          where the owner serves other processes
    metadata.db     `database`
    reserve         `reserve`: room for metadata on a full disk
    data            `media`: block 0 is a header, the magic and the fsid, so that files of two stores are not mixed up

A store that was not closed in order is put right when it is opened: what nothing refers to is punched, so that no
block hands out another image's bytes.
"""

import errno
import logging
import os
from pathlib import Path

import trio

from rbdfs.errors import Corrupt, InvalidArgument, NotFound, PermissionDenied, RbdfsError, ReadOnly, StoreFailure
from rbdfs.local import absentees
from rbdfs.local.batch import Batch
from rbdfs.local.blocks import BLOCK_BITS, BLOCK_SIZE, Blocks
from rbdfs.local.database import Database
from rbdfs.local.engine import Client, Engine
from rbdfs.local.media import Media
from rbdfs.local.objects import ObjectKey
from rbdfs.local.pools import REMOVED, Pool
from rbdfs.local.reserve import NAME as RESERVE, Reserve
from rbdfs.local.watches import WatchEntry
from rbdfs.rados.api import WatchEvent
from rbdfs.rados.ops import PoolId

log = logging.getLogger(__name__)

METADATA = "metadata.db"
DATA = "data"
LOCK = "lock"
SOCKET = "socket"
_FRESH = METADATA + ".new"
_MAGIC = b"rbdfs data file\n"


def is_store(path: Path) -> bool:
    """Whether the directory holds a store."""
    return (path / METADATA).exists()


def require_store(path: Path) -> None:
    """NotFound, or InvalidArgument, where the directory holds no store."""
    if not path.exists():
        raise NotFound(f"{path}: no such store")
    if not is_store(path):
        raise InvalidArgument(f"{path}: not a store of rbdfs")


def make_directory(path: Path) -> None:
    """Make the directory of a store, unless it is there; only its owner may look inside."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_store(path):
            return
        # What a creation that was cut short has left is no obstacle.
        ours = (LOCK, DATA, SOCKET, RESERVE)
        strange = [each.name for each in path.iterdir() if each.name not in ours and not each.name.startswith(_FRESH)]
        if strange:
            raise InvalidArgument(f"{path}: not a store of rbdfs, and not empty: it has {min(strange)}")
    except OSError as err:
        raise from_os_error(path, err) from err


def create_store(path: Path) -> None:
    """Make an empty store in a directory whose lock is held; the metadata comes last and says that all is there."""
    fresh = path / _FRESH
    try:
        for leftover in path.glob(fresh.name + "*"):
            leftover.unlink()
        Database.create(fresh, BLOCK_SIZE)
        database = Database(fresh)
        fsid = database.settings()["fsid"]
        database.close()
        with (path / DATA).open("wb") as data:
            os.fchmod(data.fileno(), 0o600)
            data.write(_header(fsid))
            data.truncate(BLOCK_SIZE)
            data.flush()
            os.fsync(data.fileno())
        fresh.chmod(0o600)
        fresh.rename(path / METADATA)
        _sync_directory(path)
    except OSError as err:
        raise from_os_error(path, err) from err


def open_media(path: Path, fsid: str, *, read_only: bool = False) -> Media:
    """The data file that belongs to this fsid."""
    try:
        media = Media(path / DATA, read_only=read_only)
    except FileNotFoundError as err:
        raise Corrupt(f"{path}: the data file is missing") from err
    except OSError as err:
        raise from_os_error(path / DATA, err) from err
    header = bytearray(len(_header(fsid)))
    if media.size >= BLOCK_SIZE:
        media.read(0, header)
    if bytes(header) != _header(fsid):
        media.close()
        raise Corrupt(f"{path / DATA}: not the data file of this store")
    return media


def open_engine(path: Path, media: Media | None = None) -> Engine:
    """The engine of a store whose lock is held; `journal.run` is for the caller to start."""
    database = _open_database(path)
    try:
        settings = database.settings()
        if settings.get("block_size") != BLOCK_SIZE:
            raise Corrupt(f"{path}: blocks of {settings.get('block_size')} bytes")
        boot = settings["boots"] + 1
        last_unclean = settings["last_unclean"] if settings["clean"] else settings["boots"]
        rows = [("boots", boot), ("clean", 0), ("last_unclean", last_unclean)]
        media = media or open_media(path, settings["fsid"])
        reserve = Reserve(path)
        reserve.commit(media, database, Batch(settings=rows))
        engine = Engine(settings["fsid"], database, media, reserve, boot, last_unclean)
        if not settings["clean"]:
            _punch_free_blocks(engine.blocks, media)
        _load_pools(engine)
        _keep_places(engine, settings.get("watches", b""))
        engine.last_pool_id = PoolId(max(settings.get("last_pool_id", 0), *engine.pools, _last_removed_pool(database)))
    except BaseException:
        database.close()
        if media is not None:
            media.close()
        raise
    return engine


def _open_database(path: Path) -> Database:
    try:
        return Database(path / METADATA)
    except StoreFailure:
        # On a full disk SQLite cannot even make its log: the reserve is kept for that, too.
        if not (path / RESERVE).exists():
            raise
        (path / RESERVE).unlink()
        return Database(path / METADATA)


async def close_engine(engine: Engine) -> None:
    """Make everything durable, and close; the store is clean afterwards unless something failed."""
    try:
        with trio.CancelScope(shield=True):
            await engine.readers.wait_idle()
            await engine.settle()
            engine.objects.touch_all()
            engine.preallocation.end()
            await engine.journal.flush()
            if engine.blocks.is_dirty:  # blocks whose readers had to be waited for
                await engine.journal.flush()
            if not engine.blocks.is_dirty and not engine.journal.is_stuck:
                engine.extra.settings.append(("clean", 1))
                await engine.journal.flush()
    finally:
        engine.end_threads()
        engine.database.close()
        engine.media.close()


def _punch_free_blocks(blocks: Blocks, media: Media) -> None:
    size = media.size
    for first, count in blocks.free_runs():
        start, end = first << BLOCK_BITS, min(first + count << BLOCK_BITS, size)
        if start < end:
            media.give_back(start, end - start)
    behind = blocks.end << BLOCK_BITS  # written after the last commit, in pages that none of them had
    if behind < size:
        media.give_back(behind, size - behind)
    media.sync()


def _load_pools(engine: Engine) -> None:
    for number, name, snap_seq, used, count in engine.database.rows(
        "SELECT id, name, snap_seq, used, objects FROM pool"
    ):
        engine.pools[number] = pool = Pool(PoolId(number), name, snap_seq, used, count)
        pool.is_removed = name.startswith(REMOVED)
    for number, snap in engine.database.rows("SELECT pool, snap FROM removed_snap"):
        if number in engine.pools:
            engine.pools[number].removed_snaps.add(snap)


def _keep_places(engine: Engine, setting: bytes) -> None:
    """Wait for those who watched at the last owner."""
    try:
        expected = absentees.unpack(setting)
    except Corrupt as err:
        log.warning("%s: nobody who watched is waited for", err)
        expected = []
    now = trio.current_time()
    places = []
    for each in expected:
        client = Client(each.instance_id, each.address)
        client.process = each.process
        key = ObjectKey(each.pool, each.namespace, each.name)
        places.append(WatchEntry(key, client, each.cookie, each.seconds, _hear_nothing, now + each.left))
    engine.watches.keep_places(setting, places)


def _hear_nothing(_event: WatchEvent) -> None:
    """Nobody is there yet."""


def _last_removed_pool(database: Database) -> int:
    """The newest pool known to have had snapshots; older versions of rbdfs kept of a removed pool nothing but these."""
    (number,) = database.rows("SELECT ifnull(max(pool), 0) FROM removed_snap")[0]
    return int(number)


def _header(fsid: str) -> bytes:
    return _MAGIC + fsid.encode() + b"\n"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def from_os_error(path: Path, err: OSError) -> RbdfsError:
    """An error of the filesystem that a store is in, by meaning."""
    kind: type[RbdfsError] = PermissionDenied if isinstance(err, PermissionError) else StoreFailure
    if err.errno == errno.EROFS:
        kind = ReadOnly
    return kind(f"{path}: {err.strerror}")
