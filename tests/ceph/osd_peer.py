"""OSDs in memory, on the far side of an objecter's sessions: they take the messages as encoded, and answer on demand.

cluster = Peers(osds=3)
async with cluster.objecter() as objecter:
    ...submit...
    await cluster.settle()
    [op] = cluster.ops                  everything that was received and is not yet answered
    op.reply(data=b"hello")             or not: a real OSD would not have answered, either
    cluster.take_map(up=(0, 2))         the next epoch of the map
    cluster.cut(0)                      the connections to osd.0 break
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from struct import Struct
from uuid import UUID

import trio
import trio.testing
from ceph.pools import make_pool

from rbdfs.ceph.messages import BackoffCode, MessageType, OSDBackoff, SpgId, WatchNotify
from rbdfs.ceph.msgr2.connection import ConnectionLost, Identity
from rbdfs.ceph.objecter import Objecter
from rbdfs.ceph.op_message import OpFlag
from rbdfs.ceph.osdmap import MapFlag, OSDMap, PgId
from rbdfs.ceph.pending import ObjectTarget
from rbdfs.ceph.placement import locate
from rbdfs.entities import AddrType, AddrVec, EntityAddr
from rbdfs.rados.ops import PoolId
from rbdfs.wire import Buffer, Cursor

POOL = PoolId(1)
FSID = UUID(int=7)
MY_ADDR = EntityAddr(AddrType.ANY, "10.0.0.9", 0, 77)
_EXISTS_AND_UP, _EXISTS = 3, 1
_OP = Struct("<HI28sI")


@dataclass
class ReceivedOp:
    """An MOSDOp as an OSD reads it."""

    peer: "PeerConnection"
    tid: int
    pg: SpgId
    raw_hash: int
    epoch: int
    flags: OpFlag
    pool: int
    namespace: str
    name: str
    ops: list[tuple[int, int, bytes, bytes]]  # code, flags, union, data
    snap_id: int
    snap_seq: int
    snaps: list[int]
    attempt: int
    features: int

    @property
    def codes(self) -> list[int]:
        """What its steps are."""
        return [op[0] for op in self.ops]

    def reply(
        self,
        result: int = 0,
        data: bytes = b"",
        version: int = 1,
        attempt: int | None = None,
        *,
        is_redirected: bool = False,
    ) -> None:
        """Answer it, with `data` as the output of its first step."""
        attempt = self.attempt if attempt is None else attempt
        lengths = [len(data)] + [0] * (len(self.ops) - 1)
        self.peer.receive(
            MessageType.OSD_OPREPLY,
            encode_reply(self.name, result, lengths, version, attempt, is_redirected=is_redirected),
            data,
            self.tid,
        )
        if self in self.peer.cluster.ops:
            self.peer.cluster.ops.remove(self)


def decode_op(front: Buffer, data: Buffer, tid: int = 0, peer: "PeerConnection | None" = None) -> ReceivedOp:
    """Read an MOSDOp of version 8."""
    cursor, payload = Cursor(front), Cursor(data)
    pg, raw_hash, epoch, flags = SpgId.decode(cursor), cursor.u32(), cursor.u32(), cursor.u32()
    with cursor.envelope(2, "osd_reqid_t"):
        assert not any(cursor.take(21))
    assert not any(cursor.take(24 + 4))  # trace, client incarnation
    cursor.skip(8)  # mtime
    with cursor.envelope(5, "object_locator_t"):
        pool, _, key, namespace = cursor.s64(), cursor.s32(), cursor.text(), cursor.text()
    assert not key
    name, ops = cursor.text(), []
    for _ in range(cursor.u16()):
        code, op_flags, union, length = cursor.unpack(_OP)
        ops.append((code, op_flags, union, bytes(payload.take(length))))
    snap_id, seq = cursor.u64(), cursor.u64()
    snaps, attempt, features = [cursor.u64() for _ in range(cursor.count())], cursor.s32(), cursor.u64()
    cursor.expect_end("MOSDOp")
    payload.expect_end("data of an MOSDOp")
    assert peer is not None or not tid
    return ReceivedOp(
        peer,  # type: ignore[arg-type]
        tid,
        pg,
        raw_hash,
        epoch,
        OpFlag(flags),
        pool,
        namespace,
        name,
        ops,
        snap_id,
        seq,
        snaps,
        attempt,
        features,
    )


def encode_reply(
    name: str, result: int, lengths: Sequence[int], version: int, attempt: int, *, is_redirected: bool = False
) -> bytes:
    """An MOSDOpReply of version 8."""
    out = bytearray()
    out += len(name).to_bytes(4, "little") + name.encode()
    PgId(1, 0).encode(out)
    out += Struct("<Qi12xII").pack(0, result, 1, len(lengths))
    for length in lengths:
        out += _OP.pack(0, 0, b"", length)
    out += Struct(f"<i{len(lengths)}i12xQB24x").pack(attempt, *[0] * len(lengths), version, is_redirected)
    return bytes(out)


class PeerConnection:
    """What the objecter takes for a connection to an OSD."""

    def __init__(self, cluster: "Peers", osd: int) -> None:
        self.cluster = cluster
        self.osd = osd
        self.lost: ConnectionLost | None = None
        self.backoffs_acknowledged: list[OSDBackoff] = []
        self.times_copied = 0
        self._over = trio.Event()
        self._on_message = None

    def send(
        self,
        kind: int,
        front: Buffer,
        data: Sequence[Buffer] = (),
        *,
        tid: int = 0,
        version: int = 1,
        compat: int = 1,
        priority: int = 127,
    ) -> None:
        """Take a message as a connection does: into nothing once it is lost."""
        if self.lost is not None:
            return
        if kind == MessageType.OSD_BACKOFF:
            self.backoffs_acknowledged.append(OSDBackoff.from_bytes(front))
            return
        assert (kind, version, compat) == (MessageType.OSD_OP, 8, 3)
        op = decode_op(front, b"".join(data), tid, self)
        self.cluster.ops.append(op)
        self.cluster.log.append((self.osd, op.name, op.tid, op.attempt))

    def copy_unsent(self) -> None:
        """Nothing is left unsent here; counts."""
        self.times_copied += 1

    def receive(self, kind: int, front: bytes, data: bytes = b"", tid: int = 0) -> None:
        """Let the client receive a message."""
        if self.lost is None:
            assert self._on_message is not None
            self._on_message(kind, tid, 8, memoryview(front), data)

    async def run(self, on_message) -> None:  # type: ignore[no-untyped-def]
        """Receive until the connection is cut."""
        self._on_message = on_message
        if self.cluster.is_flapping:
            self.close()
        await self._over.wait()
        assert self.lost is not None
        raise self.lost

    def close(self) -> None:
        """End it."""
        if self.lost is None:
            self.lost = ConnectionLost("closed")
            self._over.set()
            self.cluster.ops = [op for op in self.cluster.ops if op.peer is not self]

    def block(self, pg: SpgId, backoff_id: int, begin, end) -> None:  # type: ignore[no-untyped-def]
        """Ask the client to send nothing to these objects."""
        message = OSDBackoff(pg, 1, BackoffCode.BLOCK, backoff_id, begin, end)
        self.receive(MessageType.OSD_BACKOFF, message.to_bytes())

    def unblock(self, pg: SpgId, backoff_id: int, begin, end) -> None:  # type: ignore[no-untyped-def]
        """Take that back."""
        message = OSDBackoff(pg, 1, BackoffCode.UNBLOCK, backoff_id, begin, end)
        self.receive(MessageType.OSD_BACKOFF, message.to_bytes())

    def event(self, opcode: int, cookie: int, notify_id: int = 0, payload: bytes = b"", data: bytes = b"") -> None:
        """Tell a watch, or the one who notifies."""
        message = WatchNotify(1, opcode, cookie, 0, notify_id, payload, 0, 4242)
        self.receive(MessageType.WATCH_NOTIFY, message.to_bytes(), data)


class _Objecter(Objecter):
    def __init__(self, cluster: "Peers", op_timeout: float | None) -> None:
        super().__init__(cluster, None, Identity(1), (), op_timeout)  # type: ignore[arg-type]
        self.cluster = cluster
        self.my_addr = MY_ADDR

    async def dial(self, address: EntityAddr) -> PeerConnection:  # type: ignore[override]
        return await self.cluster.dial(address)


@dataclass
class Peers:
    """OSDs, and the map that says where they are; every PG is served by the first OSD of `acting` that is up."""

    osds: int = 3
    pg_num: int = 8
    ops: list[ReceivedOp] = field(default_factory=list)
    log: list[tuple[int, str, int, int]] = field(default_factory=list)  # OSD, object, tid, attempt
    connections: list[PeerConnection] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # OSDs that do not answer
    is_flapping: bool = False  # whether every OSD ends every connection at once
    renewals: int = 0
    maps_wanted: int = 0

    def __post_init__(self) -> None:
        self.map = OSDMap(
            FSID,
            1,
            MapFlag.SORTBITWISE,
            {POOL: make_pool(self.pg_num)},
            {POOL: "data"},
            self.osds,
            (_EXISTS_AND_UP,) * self.osds,
            (0x10000,) * self.osds,
            tuple(AddrVec([_address(osd)]) for osd in range(self.osds)),
        )
        self.map.pg_temp = {PgId(POOL, seed): tuple(range(self.osds)) for seed in range(1024)}

    @asynccontextmanager
    async def objecter(self, op_timeout: float | None = None) -> AsyncIterator[Objecter]:
        """An objecter that has the first map."""
        self.client = _Objecter(self, op_timeout)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.client.run)
            self.client.take_maps([self.map])
            yield self.client
            nursery.cancel_scope.cancel()

    def target(self, name: str, pool: PoolId = POOL) -> ObjectTarget:
        """An object."""
        return ObjectTarget(pool, "", name, locate(self.map, pool, name).raw_hash)

    async def settle(self) -> None:
        """Wait until nobody has anything to do."""
        await trio.testing.wait_all_tasks_blocked(0.001)

    def take_map(self, **changes: object) -> None:
        """The next epoch: `up` OSDs, `pg_num`, `pool_flags`, `acting` of all PGs; others are fields of OSDMap."""
        self.client.take_maps([self.next_map(**changes)])

    def next_map(self, **changes: object) -> OSDMap:
        """Make the next map without giving it to the objecter."""
        osdmap = replace(self.map, epoch=self.map.epoch + 1, placements={}, raw_mappings={})
        for key, value in changes.items():
            if key == "up":
                osdmap.osd_states = tuple(
                    _EXISTS_AND_UP if osd in value else _EXISTS  # type: ignore[operator]
                    for osd in range(self.osds)
                )
            elif key == "acting":
                osdmap.pg_temp = dict.fromkeys(osdmap.pg_temp, value)  # type: ignore[arg-type]
            elif key == "pg_num":
                pool = osdmap.pools[POOL]
                osdmap.pools = {POOL: replace(pool, pg_num=value, pgp_num=value, pg_num_pending=value)}  # type: ignore[arg-type]
            elif key == "pool_flags":
                osdmap.pools = {POOL: replace(osdmap.pools[POOL], flags=value)}  # type: ignore[arg-type]
            else:
                assert hasattr(osdmap, key)
                setattr(osdmap, key, value)
        self.map = osdmap
        return osdmap

    def move(self, osd: int, nonce: int) -> tuple[AddrVec, ...]:
        """The addresses when an OSD has started anew."""
        return tuple(
            AddrVec([replace(_address(one), nonce=nonce) if one == osd else _address(one)]) for one in range(self.osds)
        )

    def connection(self, osd: int) -> PeerConnection:
        """The connection to an OSD that is alive."""
        [found] = [one for one in self.connections if one.osd == osd and one.lost is None]
        return found

    def cut(self, osd: int) -> None:
        """Break the connection to an OSD."""
        self.connection(osd).close()

    # what the objecter asks for

    async def dial(self, address: EntityAddr) -> PeerConnection:
        """Connect."""
        await trio.lowlevel.checkpoint()
        osd = address.port - 6800
        if osd in self.refused:
            raise ConnectionLost("refused")
        connection = PeerConnection(self, osd)
        self.connections.append(connection)
        return connection

    def want_maps(self, *, full: bool = False) -> None:
        """Count."""
        self.maps_wanted += 1

    async def renew_tickets(self) -> None:
        """Count."""
        self.renewals += 1


def _address(osd: int) -> EntityAddr:
    return EntityAddr(AddrType.MSGR2, "10.0.0.1", 6800 + osd, 1)
