"""The embedded object store: a directory with RADOS's semantics, object classes included.

cluster             open_store, check_store; the handles of `rados.api`
owner, store        owning a directory: its lock, its files, opening and closing them in order
backend             what a handle asks: answered by `session` in the owner's process, by `remote` elsewhere,
server, link, codec     over the owner's socket
engine              carries out ops: `direct` where bytes are read or overwritten, `steps` on a `draft` otherwise,
methods, classes/       class methods among them
objects, omap, extents, snapshots, pools        what an object is, and what is counted; `cache` has those in memory
blocks, media, reserve, preallocation   the data file: who refers to which block; reading and writing it; room in it
journal, batch, database    when changes become durable, and how they are stored
watches, housekeeping, offload      watch and notify; trimming, pools, fencing; threads for cold reads, large writes
check               verifying all of it
"""
