"""Watches on objects, and notifies to their watchers, among the clients of one engine.

A watch lives as long as its client is heard of. Those of attached clients are stored with each commit, and the next
owner keeps their places until the clients watch again (`absentees`). A notify is over when every watcher has answered,
has gone, or had its time; one that found a place kept is told to whoever takes it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import NotConnected
from rbdfs.local import absentees, journal
from rbdfs.local.absentees import Absentee
from rbdfs.local.objects import ObjectKey
from rbdfs.rados.api import NotifyEvent, NotifyReply, WatchEvent, WatchLost
from rbdfs.rados.ops import Watcher

if TYPE_CHECKING:
    from rbdfs.local.engine import Client

WatcherId = tuple[int, int]  # instance id, cookie

_RETURN_SECONDS = 5.0  # for a client that has come, and been told that its watches are lost, to watch again


@dataclass(slots=True, eq=False)
class WatchEntry:
    """A client's watch on an object."""

    key: ObjectKey
    client: "Client"
    cookie: int
    seconds: int
    on_event: Callable[[WatchEvent], None]
    kept_until: float | None = None  # the place of a client that is to come; by trio's clock

    @property
    def id(self) -> WatcherId:
        """As in a NotifyReply."""
        return self.client.instance_id, self.cookie


@dataclass(slots=True, eq=False)
class _Notify:
    event: NotifyEvent
    waiting: set[WatcherId]
    acks: dict[WatcherId, bytes] = field(default_factory=dict)
    done: trio.Event = field(default_factory=trio.Event)

    def leave(self, watcher: WatcherId) -> None:
        self.waiting.discard(watcher)
        if not self.waiting:
            self.done.set()


class Watches:
    """All watches of an engine; `on_changed` is called when there are others to store."""

    def __init__(self, on_changed: Callable[[], None]) -> None:
        self._on_changed = on_changed
        self._changed_since: float | None = None  # by trio's clock; there may be others to store
        self._stored = b""
        self._entries: dict[ObjectKey, dict[WatcherId, WatchEntry]] = {}
        self._notifies: dict[int, _Notify] = {}
        self._ids = itertools.count(1)

    def add(self, entry: WatchEntry) -> None:
        """Begin a watch; if a place was kept for it, it hears what has been notified there."""
        entries = self._entries.setdefault(entry.key, {})
        entries[entry.id] = entry
        self._changed(entry)
        places = [place for place in self._kept(entry.client) if place.key == entry.key]
        if places:
            place = min(places, key=lambda each: each.cookie)  # watches are made anew in the order they were made in
            for notify in list(self._notifies.values()):
                if place.id in notify.waiting:
                    notify.waiting.add(entry.id)
                    entry.on_event(notify.event)
            self.remove(place)

    def remove(self, entry: WatchEntry) -> None:
        """End a watch; a notify no longer waits for it."""
        self._changed(entry)
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

    def lose_address(self, address: str, reason: str) -> None:
        """The client at an address is fenced: its watches end."""
        for entry in self._all():
            if entry.client.address == address:
                self._lose(entry, reason)

    def forget_client(self, client: "Client") -> None:
        """The client has gone: nobody is left to be told."""
        for entry in self._all():
            if entry.client is client:
                self.remove(entry)

    def expire(self, now: float) -> None:
        """End the watches of clients that were silent for longer than one of theirs allows, and places in vain."""
        silent = {entry.client for entry in self._all() if now - entry.client.heard > entry.seconds}
        for entry in self._all():
            if entry.client in silent:
                self._lose(entry, f"{entry.client.entity} was silent for too long")
            elif entry.kept_until is not None:
                process = entry.client.process
                if now > entry.kept_until or (process is not None and process.has_gone):
                    self.remove(entry)

    def _all(self) -> list[WatchEntry]:
        return [entry for entries in self._entries.values() for entry in entries.values()]

    def _lose(self, entry: WatchEntry, reason: str) -> None:
        self.remove(entry)
        entry.on_event(WatchLost(NotConnected(reason)))

    # Those of attached clients, from one owner to the next.

    def keep_places(self, setting: bytes, places: list[WatchEntry]) -> None:
        """Keep the places of those who watched at the last owner; `setting` is what is stored."""
        self._stored, self._changed_since = setting, trio.current_time() if setting else None
        for place in places:
            self._entries.setdefault(place.key, {})[place.id] = place

    def has_come(self, client: "Client", now: float) -> None:
        """A client is here, and knows that its watches are lost: places are not kept for long any more."""
        for place in self._kept(client):
            assert place.kept_until is not None
            place.kept_until = min(place.kept_until, now + _RETURN_SECONDS)

    def leave_place(self, client: "Client", cookie: int) -> None:
        """A client ends a watch that it had at the last owner."""
        for place in self._kept(client):
            if place.cookie == cookie:
                self.remove(place)

    def take(self, now: float, *, with_others: bool) -> bytes | None:
        """The setting to be stored; None where it is what is stored, or waits: it alone makes no flush a commit."""
        if self._changed_since is None:
            return None
        if not with_others and now < self._changed_since + journal.INTERVAL:
            self._on_changed()  # for another look
            return None
        self._changed_since = None
        setting = absentees.pack(
            Absentee(
                *entry.key,
                entry.client.instance_id,
                entry.client.address,
                entry.cookie,
                entry.seconds,
                entry.seconds if entry.kept_until is None else max(int(entry.kept_until - now), 0),
                *entry.client.process,
            )
            for entry in self._all()
            if entry.client.process is not None
        )
        if setting == self._stored:
            return None
        self._stored = setting
        return setting

    def _kept(self, client: "Client") -> list[WatchEntry]:
        return [
            entry
            for entry in self._all()
            if entry.kept_until is not None and entry.client.instance_id == client.instance_id
        ]

    def _changed(self, entry: WatchEntry) -> None:
        if entry.client.process is not None:
            self._changed_since = self._changed_since or trio.current_time()
            self._on_changed()

    # Notifies.

    async def notify(self, client: "Client", key: ObjectKey, payload: bytes, seconds: float) -> NotifyReply:
        """Tell the watchers of an object, and wait for them."""
        entries = list(self._entries.get(key, {}).values())
        notify_id = next(self._ids)
        event = NotifyEvent(notify_id, client.instance_id, payload)
        notify = self._notifies[notify_id] = _Notify(event, {entry.id for entry in entries})
        try:
            for entry in entries:
                entry.on_event(event)
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
