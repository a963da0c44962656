"""What each step of an op does to a draft: one function per step, found by its class.

A function takes the `Run` of the op and the step, and gives the step's output. It raises where the op must fail.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.errors import Canceled, Exists, ExtentMismatch, InvalidArgument, VersionMismatch
from rbdfs.local import extents, methods, snapshots
from rbdfs.local.draft import ColdBlock, Draft
from rbdfs.local.objects import State
from rbdfs.local.omap import decode_key, encode_key, encode_pairs, encode_removals, page
from rbdfs.rados.ops import (
    HEAD,
    NO_SNAPS,
    Append,
    AssertExists,
    AssertVersion,
    Call,
    CloneInfo,
    CloneRange,
    CompareExtent,
    CompareXattr,
    Comparison,
    Create,
    GetXattr,
    GetXattrs,
    ListSnaps,
    ListWatchers,
    MapExtents,
    ObjectStat,
    OmapClear,
    OmapGetByKeys,
    OmapGetHeader,
    OmapGetKeys,
    OmapGetValues,
    OmapKeys,
    OmapRemoveKeys,
    OmapSet,
    OmapSetHeader,
    OmapValues,
    Read,
    Remove,
    RemoveXattr,
    Rollback,
    SetAllocHint,
    SetXattr,
    SnapContext,
    SnapId,
    SparseData,
    SparseRead,
    Stat,
    Truncate,
    Watcher,
    Write,
    WriteFull,
    WriteSame,
    Zero,
)

if TYPE_CHECKING:
    from rbdfs.local.engine import Client, Engine

_COMPARE = {
    Comparison.EQ: operator.eq,
    Comparison.NE: operator.ne,
    Comparison.GT: operator.gt,
    Comparison.GTE: operator.ge,
    Comparison.LT: operator.lt,
    Comparison.LTE: operator.le,
}


@dataclass(slots=True)
class Run:
    """An op under way: whose it is, and what it has made of its object so far."""

    engine: "Engine"
    client: "Client"
    draft: Draft
    version: int  # of the state that the op began with
    now: int  # nanoseconds since the epoch
    snap_id: SnapId = HEAD
    snapc: SnapContext = NO_SNAPS
    is_write: bool = False

    def omap_value(self, key: str) -> bytes | None:
        """The value of a key as the op has it."""
        self._know_omap()
        return self.draft.omap_value(encode_key(key))

    def _know_omap(self) -> None:
        draft = self.draft
        if draft.omap_base is None:
            assert draft.base is not None
            draft.omap_base = self.engine.omap(draft.obj, draft.base).pairs

    def omap_page(self, after: str, prefix: str, limit: int) -> tuple[dict[bytes, bytes], bool]:
        """Pairs in byte order of their keys, and whether there are more."""
        draft = self.draft
        arguments = encode_key(after), encode_key(prefix), limit
        self._know_omap()
        pairs = draft.omap_pairs()
        if draft.omap_changes or draft.omap_cleared or draft.base is None or not draft.base.has_omap:
            keys, more = page(sorted(pairs), *arguments)
        else:
            keys, more = self.engine.omap(draft.obj, draft.base).page(*arguments)
        return {key: pairs[key] for key in keys}, more


# Reading.


def _read(run: Run, step: Read) -> bytearray:
    run.draft.require()
    return run.draft.read(step.offset, extents.clip(run.draft.size, step.offset, step.length))


def _sparse_read(run: Run, step: SparseRead) -> SparseData:
    run.draft.require()
    end = extents.clip(run.draft.size, step.offset, step.length)
    found = extents.mapped(extents.pieces(run.draft.blocks, step.offset, end))
    return SparseData(found, b"".join(run.draft.read(offset, offset + length) for offset, length in found))


def _map_extents(run: Run, step: MapExtents) -> list[tuple[int, int]]:
    run.draft.require()
    end = extents.clip(run.draft.size, step.offset, step.length)
    return extents.mapped(extents.pieces(run.draft.blocks, step.offset, end))


def stat(run: Run, step: Stat | None = None) -> ObjectStat:
    """Size and mtime; those of the op itself where it has changed the object."""
    draft = run.draft
    draft.require()
    return ObjectStat(draft.size, draft.base.mtime if draft.base and not draft.changed else run.now)


def _get_xattr(run: Run, step: GetXattr) -> bytes:
    return run.draft.get_xattr(step.name)


def _get_xattrs(run: Run, step: GetXattrs) -> dict[str, bytes]:
    run.draft.require()
    return dict(run.draft.xattrs)


def _omap_get_keys(run: Run, step: OmapGetKeys) -> OmapKeys:
    run.draft.require()
    found, more = run.omap_page(step.start_after, "", step.max_return)
    return OmapKeys([decode_key(key) for key in found], more)


def _omap_get_values(run: Run, step: OmapGetValues) -> OmapValues:
    run.draft.require()
    found, more = run.omap_page(step.start_after, step.prefix, step.max_return)
    return OmapValues({decode_key(key): value for key, value in found.items()}, more)


def _omap_get_by_keys(run: Run, step: OmapGetByKeys) -> dict[str, bytes]:
    run.draft.require()
    found = ((key, run.omap_value(key)) for key in step.keys)
    return {key: value for key, value in found if value is not None}


def _omap_get_header(run: Run, step: OmapGetHeader) -> bytes:
    run.draft.require()
    return run.draft.omap_header


def _list_snaps(run: Run, step: ListSnaps) -> list[CloneInfo]:
    return snapshots.list_states(run.draft.obj)


def _list_watchers(run: Run, step: ListWatchers) -> list[Watcher]:
    run.draft.require()
    return run.engine.watches.watchers(run.draft.obj.key)


# Guards, and calls.


def _assert_exists(run: Run, step: AssertExists) -> None:
    run.draft.require()


def _assert_version(run: Run, step: AssertVersion) -> None:
    run.draft.require()
    if run.version != step.version:
        raise VersionMismatch(f"{run.draft.obj.key.name}: version is {run.version}, not {step.version}")


def _compare_xattr(run: Run, step: CompareXattr) -> None:
    run.draft.require()
    if not _COMPARE[step.comparison](bytes(step.value), run.draft.xattrs.get(step.name, b"")):
        raise Canceled(f"{run.draft.obj.key.name}: attribute {step.name} is not as expected")


def _compare_extent(run: Run, step: CompareExtent) -> None:
    draft = run.draft
    wanted = bytes(step.data)
    stored = bytes(draft.read(step.offset, min(draft.size, step.offset + len(wanted)))).ljust(len(wanted), b"\0")
    if stored != wanted:
        offset = next(index for index, pair in enumerate(zip(stored, wanted, strict=True)) if pair[0] != pair[1])
        raise ExtentMismatch(f"{draft.obj.key.name}: differs at {step.offset + offset}", offset)


def _call(run: Run, step: Call) -> bytes | None:
    output = methods.call(run, step)
    return None if run.is_write else output


# Writing.


def _create(run: Run, step: Create) -> None:
    if step.exclusive and run.draft.exists:
        raise Exists(f"{run.draft.obj.key.name}: object exists")
    run.draft.create()


def _write(run: Run, step: Write) -> None:
    run.draft.write(step.offset, step.data)


def _write_full(run: Run, step: WriteFull) -> None:
    run.draft.replace(step.data)


def _append(run: Run, step: Append) -> None:
    run.draft.write(run.draft.size, step.data)


def _write_same(run: Run, step: WriteSame) -> None:
    if not len(step.data) or step.length % len(step.data):
        raise InvalidArgument(f"{run.draft.obj.key.name}: {step.length} bytes are no multiple of {len(step.data)}")
    run.draft.write(step.offset, bytes(step.data) * (step.length // len(step.data)))


def _zero(run: Run, step: Zero) -> None:
    run.draft.zero(step.offset, step.length)


def _truncate(run: Run, step: Truncate) -> None:
    if run.draft.exists:
        run.draft.truncate(step.size)


def _remove(run: Run, step: Remove) -> None:
    run.draft.remove()


def _rollback(run: Run, step: Rollback) -> None:
    draft = run.draft
    state, _ = snapshots.find(draft.obj, step.snap_id)
    if state is None:
        if draft.exists:
            draft.remove()
    elif state is not draft.base or draft.changed:
        draft.become(state, run.engine.omap(draft.obj, state).pairs if state.has_omap else {})


def _clone_range(run: Run, step: CloneRange) -> None:
    source = run.engine.objects.find(run.draft.obj.key._replace(name=step.source))
    if source.writing and source.head is not None:  # what is to be shared must be all there: once more, later
        raise ColdBlock(max(source.head.blocks))
    state, _ = snapshots.find(source, step.source_snap_id)
    if step.length:
        run.draft.take(state or State(), step.source_offset, step.offset, step.length)


def _set_alloc_hint(run: Run, step: SetAllocHint) -> None:
    run.draft.create()


def _set_xattr(run: Run, step: SetXattr) -> None:
    run.draft.set_xattr(step.name, step.value)


def _remove_xattr(run: Run, step: RemoveXattr) -> None:
    run.draft.remove_xattr(step.name)


def _omap_set(run: Run, step: OmapSet) -> None:
    run.draft.create()
    run.draft.change_omap(encode_pairs(step.values))


def _omap_set_header(run: Run, step: OmapSetHeader) -> None:
    run.draft.set_omap_header(step.value)


def _omap_remove_keys(run: Run, step: OmapRemoveKeys) -> None:
    run.draft.require()
    run.draft.change_omap(encode_removals(step.keys))


def _omap_clear(run: Run, step: OmapClear) -> None:
    run.draft.require()
    run.draft.clear_omap()


Step = Callable[[Run, Any], Any]

_GUARDS: dict[type, Step] = {
    AssertExists: _assert_exists,
    AssertVersion: _assert_version,
    CompareXattr: _compare_xattr,
    CompareExtent: _compare_extent,
    Call: _call,
}
READ_STEPS: dict[type, Step] = _GUARDS | {
    Read: _read,
    SparseRead: _sparse_read,
    MapExtents: _map_extents,
    Stat: stat,
    GetXattr: _get_xattr,
    GetXattrs: _get_xattrs,
    OmapGetKeys: _omap_get_keys,
    OmapGetValues: _omap_get_values,
    OmapGetByKeys: _omap_get_by_keys,
    OmapGetHeader: _omap_get_header,
    ListSnaps: _list_snaps,
    ListWatchers: _list_watchers,
}
WRITE_STEPS: dict[type, Step] = _GUARDS | {
    Create: _create,
    Write: _write,
    WriteFull: _write_full,
    Append: _append,
    WriteSame: _write_same,
    Zero: _zero,
    Truncate: _truncate,
    Remove: _remove,
    Rollback: _rollback,
    CloneRange: _clone_range,
    SetAllocHint: _set_alloc_hint,
    SetXattr: _set_xattr,
    RemoveXattr: _remove_xattr,
    OmapSet: _omap_set,
    OmapSetHeader: _omap_set_header,
    OmapRemoveKeys: _omap_remove_keys,
    OmapClear: _omap_clear,
}

# An op whose last step is of the first kind, behind none but of the second, may overwrite in place.
_OVERWRITES = {Write, WriteSame, Append, Zero}
_LEAVE_DATA = {AssertExists, AssertVersion, CompareXattr, CompareExtent, Create, SetAllocHint}


def may_overwrite_in_place(steps: Any) -> bool:
    """Whether an op changes nothing but one extent, so that writing it in place keeps the op atomic."""
    return type(steps[-1]) in _OVERWRITES and all(type(step) in _LEAVE_DATA for step in steps[:-1])
