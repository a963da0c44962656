"""Watches on objects, and notifies to their watchers, among the clients of one engine.

A watch lives as long as its client is heard of; it is not stored. A notify is over when every watcher has answered,
has gone, or had its time.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import NotConnected
from rbdfs.local.objects import ObjectKey
from rbdfs.rados.api import NotifyEvent, NotifyReply, WatchEvent, WatchLost
from rbdfs.rados.ops import Watcher

if TYPE_CHECKING:
    from rbdfs.local.engine import Client

WatcherId = tuple[int, int]  # instance id, cookie


@dataclass(slots=True, eq=False)
class WatchEntry:
    """A client's watch on an object."""

    key: ObjectKey
    client: "Client"
    cookie: int
    seconds: int
    on_event: Callable[[WatchEvent], None]

    @property
    def id(self) -> WatcherId:
        """As in a NotifyReply."""
        return self.client.instance_id, self.cookie


@dataclass(slots=True, eq=False)
class _Notify:
    waiting: set[WatcherId]
    acks: dict[WatcherId, bytes] = field(default_factory=dict)
    done: trio.Event = field(default_factory=trio.Event)

    def leave(self, watcher: WatcherId) -> None:
        self.waiting.discard(watcher)
        if not self.waiting:
            self.done.set()


class Watches:
    """All watches of an engine."""

    def __init__(self) -> None:
        self._entries: dict[ObjectKey, dict[WatcherId, WatchEntry]] = {}
        self._notifies: dict[int, _Notify] = {}
        self._ids = itertools.count(1)

    def add(self, entry: WatchEntry) -> None:
        """Begin a watch."""
        self._entries.setdefault(entry.key, {})[entry.id] = entry

    def remove(self, entry: WatchEntry) -> None:
        """End a watch; a notify no longer waits for it."""
        entries = self._entries.get(entry.key, {})
        if entries.pop(entry.id, None) is not None and not entries:
            del self._entries[entry.key]
        for notify in self._notifies.values():
            notify.leave(entry.id)

    def watchers(self, key: ObjectKey) -> list[Watcher]:
        """Who watches an object."""
        return [
            Watcher(entry.client.entity, entry.cookie, entry.seconds, entry.client.address)
            for entry in self._entries.get(key, {}).values()
        ]

    def lose_object(self, key: ObjectKey) -> None:
        """The object is gone: its watchers hear that."""
        for entry in list(self._entries.get(key, {}).values()):
            self._lose(entry, f"{key.name}: removed while watched")

    def lose_pool(self, pool: int) -> None:
        """The pool is gone."""
        for key in [key for key in self._entries if key.pool == pool]:
            self.lose_object(key)

    def lose_client(self, client: "Client", reason: str) -> None:
        """The client is fenced, or silent: its watches end."""
        for entry in self._of(client):
            self._lose(entry, reason)

    def forget_client(self, client: "Client") -> None:
        """The client has gone: nobody is left to be told."""
        for entry in self._of(client):
            self.remove(entry)

    def _of(self, client: "Client") -> list[WatchEntry]:
        return [entry for entries in self._entries.values() for entry in entries.values() if entry.client is client]

    def expired(self, now: float) -> set["Client"]:
        """The clients that were silent for longer than a watch of theirs allows."""
        return {
            entry.client
            for entries in self._entries.values()
            for entry in entries.values()
            if now - entry.client.heard > entry.seconds
        }

    def _lose(self, entry: WatchEntry, reason: str) -> None:
        self.remove(entry)
        entry.on_event(WatchLost(NotConnected(reason)))

    async def notify(self, client: "Client", key: ObjectKey, payload: bytes, seconds: float) -> NotifyReply:
        """Tell the watchers of an object, and wait for them."""
        entries = list(self._entries.get(key, {}).values())
        notify_id = next(self._ids)
        notify = self._notifies[notify_id] = _Notify({entry.id for entry in entries})
        try:
            for entry in entries:
                entry.on_event(NotifyEvent(notify_id, client.instance_id, payload))
            if notify.waiting:
                with trio.move_on_after(seconds):
                    await notify.done.wait()
        finally:
            del self._notifies[notify_id]
        return NotifyReply(notify.acks, sorted(notify.waiting))

    def acknowledge(self, entry: WatchEntry, notify_id: int, payload: bytes) -> None:
        """A watcher answers; too late is no error."""
        notify = self._notifies.get(notify_id)
        if notify is not None and entry.id in notify.waiting:
            notify.acks[entry.id] = payload
            notify.leave(entry.id)
