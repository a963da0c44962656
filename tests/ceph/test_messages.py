"""Messages against vectors recorded from daemons: decoded, encoded again, cut at every byte, damaged."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ceph.osd_peer import decode_op

from rbdfs.ceph.backoff import Backoffs, decode_backoff
from rbdfs.ceph.hobject import HObject, head_object
from rbdfs.ceph.listing import decode_page
from rbdfs.ceph.messages import (
    BackoffCode,
    ConfigMessage,
    MonCommand,
    MonCommandAck,
    MonGetVersion,
    MonGetVersionReply,
    MonMapMessage,
    MonSubscribe,
    NotifyResult,
    OSDBackoff,
    OSDMapMessage,
    PoolOp,
    PoolOpCode,
    PoolOpReply,
    SpgId,
    Statfs,
    StatfsReply,
    Subscription,
    WatchNotify,
    WatchOpcode,
)
from rbdfs.ceph.monmap import MonMap
from rbdfs.ceph.op_message import OpFlag, decode_reply
from rbdfs.ceph.osd_ops import OpCode, encode_hinted_write, encode_read, encode_steps, encode_write
from rbdfs.ceph.osdmap import OSDMap, PgId
from rbdfs.errors import NotSupported, ProtocolError, WireError
from rbdfs.rados.ops import (
    HEAD,
    AllocHint,
    Append,
    CloneInfo,
    CloneRange,
    GetXattr,
    GetXattrs,
    ListSnaps,
    ListWatchers,
    MapExtents,
    ObjectStat,
    OmapGetByKeys,
    OmapGetHeader,
    OmapGetKeys,
    OmapGetValues,
    OmapKeys,
    OmapSet,
    OmapSetHeader,
    OmapValues,
    Read,
    SetAllocHint,
    SetXattr,
    SnapId,
    SparseData,
    SparseRead,
    Stat,
    Watcher,
    Write,
)

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors/messages").glob("*.json"))
}
RELEASES = pytest.mark.parametrize("release", VECTORS)

COMPOUND_READ = (
    GetXattrs(),
    Stat(),
    Read(0, 5),
    SparseRead(0, 100),
    MapExtents(0, 100),
    OmapGetKeys("", 10),
    OmapGetValues("", 1),
    OmapGetByKeys(["two"]),
    OmapGetHeader(),
    GetXattr("color"),
)
COMPOUND_WRITE = (
    SetXattr("color", b"blue"),
    OmapSet({"one": b"1", "two": b"2"}),
    OmapSetHeader(b"head"),
    SetAllocHint(4 << 20, 4 << 20),
    Append(b" world"),
)


def front(release: str, name: str) -> bytes:
    return bytes.fromhex(VECTORS[release][name]["front"])


def data(release: str, name: str) -> bytes:
    return bytes.fromhex(VECTORS[release][name].get("data", ""))


MESSAGES: dict[str, Any] = {
    "mon_subscribe": MonSubscribe,
    "mon_map": MonMapMessage,
    "config": ConfigMessage,
    "osd_map": OSDMapMessage,
    "osd_map inc": OSDMapMessage,
    "mon_get_version": MonGetVersion,
    "mon_get_version_reply": MonGetVersionReply,
    "mon_command": MonCommand,
    "mon_command_ack": MonCommandAck,
    "pool_op": PoolOp,
    "pool_op_reply": PoolOpReply,
    "statfs": Statfs,
    "statfs_reply": StatfsReply,
    "watch_notify notify 1": WatchNotify,
    "watch_notify notify 2": WatchNotify,
    "watch_notify disconnect 3": WatchNotify,
}


@RELEASES
@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_decodes_and_its_encoding_is_what_travelled(release: str, name: str) -> None:
    recorded = front(release, name)
    encoded = MESSAGES[name].from_bytes(recorded).to_bytes()
    assert recorded.startswith(encoded)  # a map message ends with fields that clients do not read
    assert len(recorded) - len(encoded) == (4 if name.startswith("osd_map") else 0)


@RELEASES
def test_what_the_messages_say(release: str) -> None:
    subscribe = MonSubscribe.from_bytes(front(release, "mon_subscribe"))
    assert subscribe.what == {"monmap": Subscription(0), "osdmap": Subscription(0), "config": Subscription(0)}
    assert ConfigMessage.from_bytes(front(release, "config")).options == {"rbd_default_order": "20"}
    monmap = MonMap.from_bytes(MonMapMessage.from_bytes(front(release, "mon_map")).monmap)
    maps = OSDMapMessage.from_bytes(front(release, "osd_map"))
    [(epoch, encoded)] = maps.full_maps.items()
    osdmap = OSDMap.from_bytes(encoded)
    assert (osdmap.epoch, osdmap.fsid, maps.fsid) == (epoch, monmap.fsid, monmap.fsid.bytes)
    assert osdmap.pool_id("data") is not None
    increments = OSDMapMessage.from_bytes(front(release, "osd_map inc"))
    assert increments.increments
    assert not increments.full_maps
    version = MonGetVersionReply.from_bytes(front(release, "mon_get_version_reply"))
    assert version.version >= epoch
    assert json.loads(MonCommand.from_bytes(front(release, "mon_command")).words[0])["prefix"] == "osd dump"
    assert MonCommandAck.from_bytes(front(release, "mon_command_ack")).result == 0
    op = PoolOp.from_bytes(front(release, "pool_op"))
    assert op.code == PoolOpCode.CREATE_UNMANAGED_SNAP
    reply = PoolOpReply.from_bytes(front(release, "pool_op_reply"))
    assert reply.result == 0
    assert int.from_bytes(reply.value or b"", "little") > 0
    assert Statfs.from_bytes(front(release, "statfs")).pool == op.pool
    assert StatfsReply.from_bytes(front(release, "statfs_reply")).available_kib > 1 << 20


@RELEASES
def test_events_of_watches(release: str) -> None:
    notify = WatchNotify.from_bytes(front(release, "watch_notify notify 1"))
    assert (notify.opcode, notify.payload) == (WatchOpcode.NOTIFY, b"question")
    complete = WatchNotify.from_bytes(front(release, "watch_notify notify 2"))
    assert (complete.opcode, complete.notify_id) == (WatchOpcode.NOTIFY_COMPLETE, notify.notify_id)
    result = NotifyResult.from_bytes(data(release, "watch_notify notify 2"))
    assert result == NotifyResult({(notify.notifier, notify.cookie): b"answer"}, [])
    gone = WatchNotify.from_bytes(front(release, "watch_notify disconnect 3"))
    assert (gone.opcode, gone.cookie) == (WatchOpcode.DISCONNECT, notify.cookie)


@RELEASES
@pytest.mark.parametrize(("name", "steps"), [("compound_read", COMPOUND_READ), ("compound_write", COMPOUND_WRITE)])
def test_steps_encode_as_an_osd_accepted_them(release: str, name: str, steps: Any) -> None:
    encoded = encode_steps(steps)
    assert encoded.ops in front(release, f"osd_op {name}")
    assert b"".join(encoded.data) == data(release, f"osd_op {name}")
    assert decode_reply(front(release, f"osd_opreply {name}")).result == 0


@RELEASES
def test_an_op_as_it_was_accepted(release: str) -> None:
    op = decode_op(front(release, "osd_op snap_write"), data(release, "osd_op snap_write"))
    assert (op.name, op.namespace, op.codes, op.snaps) == ("vector", "", [OpCode.WRITE], [op.snap_seq])
    assert op.snap_id == HEAD
    assert op.flags == OpFlag.ONDISK | OpFlag.WRITE | OpFlag.KNOWN_REDIR
    assert op.pg.seed in (op.raw_hash % 16, op.raw_hash % 32)
    op = decode_op(front(release, "osd_op namespace"), b"")
    assert (op.namespace, op.name) == ("space", "vector")


@RELEASES
def test_outputs_of_a_compound_read(release: str) -> None:
    reply = decode_reply(front(release, "osd_opreply compound_read"))
    outputs, start, payload = [], 0, data(release, "osd_opreply compound_read")
    for decode, length in zip(encode_steps(COMPOUND_READ).decoders, reply.lengths, strict=True):
        assert decode is not None
        outputs.append(decode(payload[start : start + length]))
        start += length
    assert start == len(payload)
    xattrs, stat, some, sparse, extents, keys, values, by_keys, header, color = outputs
    assert (xattrs, color, some, by_keys, header) == ({"color": b"blue"}, b"blue", b"hello", {"two": b"2"}, b"head")
    assert isinstance(stat, ObjectStat)
    assert stat.mtime > 1_600_000_000_000_000_000
    assert isinstance(sparse, SparseData)
    assert sum(length for _, length in sparse.extents) == len(sparse.data)
    assert extents[-1][0] + extents[-1][1] == stat.size
    assert keys == OmapKeys(["one", "two"], False)
    assert values == OmapValues({"one": b"1"}, True)


@RELEASES
def test_outputs_of_listings(release: str) -> None:
    [decode] = encode_steps([ListSnaps()]).decoders
    assert decode is not None
    clone, head = decode(data(release, "osd_opreply list_snaps"))
    assert isinstance(clone, CloneInfo)
    assert clone.snaps == (clone.clone_id,)
    assert (head.clone_id, head.snaps, head.overlap) == (HEAD, (), ())
    [decode] = encode_steps([ListWatchers()]).decoders
    assert decode is not None
    watcher = decode(data(release, "osd_opreply list_watchers"))[-1]
    assert isinstance(watcher, Watcher)
    assert watcher.entity.startswith("client.")
    assert watcher.address.startswith("127.0.0.1:0/")
    assert watcher.timeout == 30
    position, names = decode_page(data(release, "osd_opreply list"), "")
    assert not names
    assert position.pool > 0


@RELEASES
@pytest.mark.parametrize("name", ["read", "write", "missing", "call", "compound_read", "watch", "list"])
def test_replies(release: str, name: str) -> None:
    reply = decode_reply(front(release, f"osd_opreply {name}"))
    assert reply.attempt == 0
    assert sum(reply.lengths) == len(data(release, f"osd_opreply {name}"))
    assert reply.result == {"missing": -2, "call": -95, "list": 1}.get(name, 0) or name == "list"


DECODERS: dict[str, Callable[[bytes], object]] = {
    **{name: kind.from_bytes for name, kind in MESSAGES.items()},
    "osd_opreply read": decode_reply,
    "osd_opreply compound_read": decode_reply,
}


@RELEASES
@pytest.mark.parametrize("name", DECODERS)
def test_cut_at_every_byte_it_is_refused(release: str, name: str) -> None:
    recorded, decode = front(release, name), DECODERS[name]
    needed = len(recorded)
    if name.startswith("osd_map"):
        needed -= 4 + 8  # what follows, and the two epochs that only tell
    if name.startswith("osd_opreply"):
        needed -= 24  # the trace
    for end in range(needed):
        with pytest.raises(WireError):
            decode(recorded[:end])


@RELEASES
@pytest.mark.parametrize("name", DECODERS)
def test_damage_is_refused_or_decoded_but_nothing_else(release: str, name: str) -> None:
    rng = random.Random(name)
    recorded = front(release, name)
    for _ in range(200):
        damaged = bytearray(recorded)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        with contextlib.suppress(WireError):
            DECODERS[name](bytes(damaged))


@RELEASES
@pytest.mark.parametrize("step", range(len(COMPOUND_READ)))
def test_cut_outputs_are_refused(release: str, step: int) -> None:
    reply, encoded = decode_reply(front(release, "osd_opreply compound_read")), encode_steps(COMPOUND_READ)
    start = sum(reply.lengths[:step])
    output, decode = data(release, "osd_opreply compound_read")[start:][: reply.lengths[step]], encoded.decoders[step]
    assert decode is not None
    if type(COMPOUND_READ[step]) in (Read, GetXattr, OmapGetHeader):
        return  # bytes are bytes
    for end in range(len(output)):
        with pytest.raises(WireError):
            decode(output[:end])


def test_a_step_that_no_osd_knows_is_refused() -> None:
    with pytest.raises(NotSupported):
        encode_steps([CloneRange(0, "other", 0, 1)])


def test_short_ways_encode_as_the_tables_do() -> None:
    hint = SetAllocHint(4 << 20, 64 << 10, AllocHint.SEQUENTIAL_READ | AllocHint.IMMUTABLE)
    assert encode_read(3, 5) == encode_steps([Read(3, 5)]).ops
    assert encode_write(3, 5) == encode_steps([Write(3, b"12345")]).ops
    assert encode_hinted_write(hint, 3, 5) == encode_steps([hint, Write(3, b"12345")]).ops
    assert encode_hinted_write(hint, 3, 5) != encode_steps([SetAllocHint(4 << 20, 64 << 10), Write(3, b"12345")]).ops


class TestBackoffs:
    """Ranges of objects."""

    PG = SpgId(1, 3, 5, -1, -1)

    def backoff(self, code: int, number: int, begin: HObject, end: HObject) -> OSDBackoff:
        return OSDBackoff(self.PG, 17, code, number, begin, end)

    def test_the_answer_repeats_the_question(self) -> None:
        asked = self.backoff(BackoffCode.BLOCK, 9, HObject(pool=3), HObject(is_max=True))
        assert Backoffs().block(asked) == self.backoff(BackoffCode.ACK_BLOCK, 9, asked.begin, asked.end)

    def test_it_covers_its_range_and_no_other(self) -> None:
        backoffs = Backoffs()
        inside, outside = head_object(3, 0b10, "", "in"), head_object(3, 0b01, "", "out")
        assert inside.order() < outside.order()  # bits reversed
        backoffs.block(self.backoff(BackoffCode.BLOCK, 1, HObject(pool=3), outside))
        assert backoffs.holds(PgId(3, 5), inside.order())
        assert not backoffs.holds(PgId(3, 5), outside.order())
        assert not backoffs.holds(PgId(3, 6), inside.order())

    def test_two_backoffs_end_one_by_one(self) -> None:
        backoffs = Backoffs()
        everything = HObject(pool=3), HObject(is_max=True)
        for number in (1, 2):
            backoffs.block(self.backoff(BackoffCode.BLOCK, number, *everything))
        assert backoffs.unblock(self.backoff(BackoffCode.UNBLOCK, 1, *everything)) == PgId(3, 5)
        assert backoffs
        assert backoffs.unblock(self.backoff(BackoffCode.UNBLOCK, 1, *everything)) is None
        assert backoffs.unblock(self.backoff(BackoffCode.UNBLOCK, 2, *everything)) == PgId(3, 5)
        assert not backoffs

    def test_an_answer_in_place_of_a_question_is_refused(self) -> None:
        message = self.backoff(BackoffCode.ACK_BLOCK, 1, HObject(), HObject())
        with pytest.raises(ProtocolError):
            decode_backoff(memoryview(message.to_bytes()))


def test_an_object_encodes_as_ceph_does() -> None:
    encoded = bytes.fromhex("04033f0000000000000003000000666f6ffeffffffffffffffefbeadde00020000006e730700000000000000")
    encoded = encoded[:2] + (len(encoded) - 6).to_bytes(4, "little") + encoded[6:]
    assert HObject.from_bytes(encoded) == HObject("", "foo", HEAD, 0xDEADBEEF, False, "ns", 7)
    assert HObject.from_bytes(encoded).to_bytes() == encoded


def test_the_old_spelling_of_the_first_object_is_understood() -> None:
    assert HObject.from_bytes(HObject(pool=-1).to_bytes()) == HObject()
    assert HObject.from_bytes(HObject(snap=SnapId(2), pool=-1).to_bytes()).pool == -1
