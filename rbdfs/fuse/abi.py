"""The kernel's FUSE protocol, declared: opcodes, flags and structures (include/uapi/linux/fuse.h, version 7.45).

A request is an `InHeader`, the body of its opcode and, for WRITE, the data; a reply is an `OutHeader` and a body. A
reply with `unique` 0 is a notification, and its error field is a `Notification` code. All is little-endian here,
as the machines that we run on are; structures have no hidden padding.

Only what rbdfs serves or edits itself stands here. libfuse knows the rest.
"""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from rbdfs.wire import S32, S64, U16, U32, U64, Buffer, Layout

MINOR_VERSION = 45  # the newest minor version whose layouts this file knows


class Opcode(IntEnum):
    """Kinds of requests; the ones not named here are relayed without a look."""

    FORGET = 2
    OPEN = 14
    READ = 15
    WRITE = 16
    FSYNC = 20
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    READDIR = 28
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    LSEEK = 46
    COPY_FILE_RANGE = 47
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Notification(IntEnum):
    """What a server may tell the kernel unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4


class InitFlag(IntFlag):
    """Features offered by the kernel and wanted by the server; the upper half travels as `flags2`."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36


class OpenFlag(IntFlag):
    """How the kernel treats an opened file (FOPEN_*)."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


class FallocateMode(IntFlag):
    """include/uapi/linux/falloc.h."""

    KEEP_SIZE = 1
    PUNCH_HOLE = 2
    ZERO_RANGE = 16


WRITE_FROM_PAGE_CACHE = 1  # WriteIn.write_flags: written back by the kernel, on behalf of anybody


class InHeader(NamedTuple):
    """struct fuse_in_header."""

    length: U32
    opcode: U32
    unique: U64
    node_id: U64
    uid: U32
    gid: U32
    pid: U32
    total_extlen: U16
    padding: U16


class OutHeader(NamedTuple):
    """struct fuse_out_header; `error` is 0 or a negative errno."""

    length: U32
    error: S32
    unique: U64


class InitIn(NamedTuple):
    """struct fuse_init_in as far as every kernel sends it; `flags2` (U32) follows where INIT_EXT is offered."""

    major: U32
    minor: U32
    max_readahead: U32
    flags: U32


class InitOut(NamedTuple):
    """struct fuse_init_out; 64 bytes with its reserve of zeroes."""

    major: U32
    minor: U32
    max_readahead: U32
    flags: U32
    max_background: U16
    congestion_threshold: U16
    max_write: U32
    time_gran: U32
    max_pages: U16
    map_alignment: U16
    flags2: U32
    max_stack_depth: U32


class OpenOut(NamedTuple):
    """struct fuse_open_out; in a CREATE reply it stands behind the entry (ENTRY_OUT_SIZE)."""

    fh: U64
    open_flags: U32
    backing_id: S32


class WriteOut(NamedTuple):
    """struct fuse_write_out."""

    size: U32
    padding: U32


class FallocateIn(NamedTuple):
    """struct fuse_fallocate_in."""

    fh: U64
    offset: U64
    length: U64
    mode: U32
    padding: U32


class BatchForgetIn(NamedTuple):
    """struct fuse_batch_forget_in; as many struct fuse_forget_one follow (FORGET_ONE_SIZE)."""

    forgets: U32
    dummy: U32


class LseekIn(NamedTuple):
    """struct fuse_lseek_in; only SEEK_DATA and SEEK_HOLE are ever asked."""

    fh: U64
    offset: U64
    whence: U32
    padding: U32


class LseekOut(NamedTuple):
    """struct fuse_lseek_out."""

    offset: U64


class CopyFileRangeIn(NamedTuple):
    """struct fuse_copy_file_range_in, both opcodes."""

    fh_in: U64
    offset_in: U64
    node_id_out: U64
    fh_out: U64
    offset_out: U64
    length: U64
    flags: U64


class CopyFileRangeOut(NamedTuple):
    """struct fuse_copy_file_range_out, of COPY_FILE_RANGE_64."""

    copied: U64


class StatxIn(NamedTuple):
    """struct fuse_statx_in."""

    getattr_flags: U32
    reserved: U32
    fh: U64
    statx_flags: U32
    statx_mask: U32


class StatxOut(NamedTuple):
    """struct fuse_statx_out with its struct fuse_statx, less the reserve of zeroes at its end (STATX_RESERVE)."""

    attr_valid: U64
    attr_valid_nsec: U32
    flags: U32
    spare_0: U64
    spare_1: U64
    mask: U32
    block_size: U32
    attributes: U64
    links: U32
    uid: U32
    gid: U32
    mode: U16
    spare_2: U16
    inode: U64
    size: U64
    blocks: U64
    attributes_mask: U64
    access_seconds: S64
    access_nanoseconds: U32
    access_reserved: S32
    birth_seconds: S64
    birth_nanoseconds: U32
    birth_reserved: S32
    change_seconds: S64
    change_nanoseconds: U32
    change_reserved: S32
    modify_seconds: S64
    modify_nanoseconds: U32
    modify_reserved: S32
    device_major: U32
    device_minor: U32
    on_device_major: U32
    on_device_minor: U32


class InvalInodeOut(NamedTuple):
    """struct fuse_notify_inval_inode_out: an offset below 0 means attributes only, a length of 0 to the end."""

    inode: U64
    offset: S64
    length: S64


class InvalEntryOut(NamedTuple):
    """struct fuse_notify_inval_entry_out; the name and a NUL follow."""

    parent: U64
    name_length: U32
    flags: U32


class StoreOut(NamedTuple):
    """struct fuse_notify_store_out; the bytes follow."""

    inode: U64
    offset: U64
    size: U32
    padding: U32


IN_HEADER = Layout(InHeader)
OUT_HEADER = Layout(OutHeader)
INIT_IN = Layout(InitIn)
INIT_OUT = Layout(InitOut)
INIT_OUT_RESERVE = bytes(64 - INIT_OUT.size)
OPEN_OUT = Layout(OpenOut)
WRITE_OUT = Layout(WriteOut)
FALLOCATE_IN = Layout(FallocateIn)
BATCH_FORGET_IN = Layout(BatchForgetIn)
LSEEK_IN = Layout(LseekIn)
LSEEK_OUT = Layout(LseekOut)
COPY_FILE_RANGE_IN = Layout(CopyFileRangeIn)
COPY_FILE_RANGE_OUT = Layout(CopyFileRangeOut)
STATX_IN = Layout(StatxIn)
STATX_OUT = Layout(StatxOut)
STATX_RESERVE = bytes(14 * 8)
INVAL_INODE_OUT = Layout(InvalInodeOut)
STORE_OUT = Layout(StoreOut)
INVAL_ENTRY_OUT = Layout(InvalEntryOut)

ENTRY_OUT_SIZE = 128  # struct fuse_entry_out
FORGET_ONE_SIZE = 16  # struct fuse_forget_one
READDIR_SIZE_OFFSET = IN_HEADER.size + 16  # struct fuse_read_in: fh, offset, size
GETXATTR_NAME_OFFSET = IN_HEADER.size + 8  # struct fuse_getxattr_in: size, padding

# The data path reads every request's head with one call: InHeader, then fuse_read_in or fuse_write_in (fh, offset,
# size, read/write flags, lock owner, open flags, padding), which are of one shape. A bare tuple, because a NamedTuple
# costs three times as much.
HEAD = struct.Struct("<IIQQIIIHHQQIIQII")

pack_out_header = OUT_HEADER.pack


def error_reply(unique: int, number: int) -> bytes:
    """The reply that fails a request with an errno; with 0, the reply that has no body."""
    return pack_out_header(OUT_HEADER.size, -number, unique)


def inval_inode(inode: int, offset: int, length: int) -> bytes:
    """The notification that drops cached attributes and, unless `offset` is negative, pages of an inode."""
    size = OUT_HEADER.size + INVAL_INODE_OUT.size
    return pack_out_header(size, Notification.INVAL_INODE, 0) + INVAL_INODE_OUT.pack(inode, offset, length)


def inval_entry(parent: int, name: bytes) -> bytes:
    """The notification that drops a name from the kernel's directory cache."""
    body = INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
    return pack_out_header(OUT_HEADER.size + len(body), Notification.INVAL_ENTRY, 0) + body


def store(inode: int, offset: int, data: Buffer) -> bytes:
    """The notification that puts bytes into the kernel's page cache, and makes the file as large as that takes."""
    body = STORE_OUT.pack(inode, offset, len(data), 0) + data
    return pack_out_header(OUT_HEADER.size + len(body), Notification.STORE, 0) + body
