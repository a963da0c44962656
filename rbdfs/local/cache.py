"""The objects in memory: those that were used lately, and all whose changes the database may not have yet."""

from collections.abc import Callable

from rbdfs.local import objects
from rbdfs.local.batch import Batch
from rbdfs.local.database import Database
from rbdfs.local.objects import ObjectKey, StoredObject

_KEPT = 32768


class ObjectCache:
    """Objects by key, loaded when first asked for.

    `mend` is called with each one that a crash may have damaged, `on_marked` whenever one has changed.
    """

    def __init__(
        self,
        database: Database,
        boot: int,
        last_unclean: int,
        mend: Callable[[StoredObject], None],
        on_marked: Callable[[], None],
    ) -> None:
        self._database = database
        self._boot = boot
        self._last_unclean = last_unclean
        self._mend = mend
        self._on_marked = on_marked
        self._objects: dict[ObjectKey, StoredObject] = {}
        self._sweep_at = _KEPT
        self._marked: list[StoredObject] = []
        self._committing: list[list[StoredObject]] = []
        self._next_row = database.rows("SELECT coalesce(max(id), 0) + 1 FROM object")[0][0]

    def __len__(self) -> int:
        return len(self._objects)

    def find(self, key: ObjectKey) -> StoredObject:
        """The object, or that there is none, from memory or from the database."""
        obj = self._objects.get(key)
        if obj is None:
            obj, boot = objects.load(self._database, key)
            if obj.row_id and boot <= self._last_unclean:
                self._mend(obj)
            self._objects[key] = obj
            if len(self._objects) > self._sweep_at:
                self._sweep()
        return obj

    def held(self) -> list[StoredObject]:
        """The objects whose changes the database may not have yet."""
        return [obj for objs in (self._marked, *self._committing) for obj in objs]

    @property
    def marked(self) -> int:
        """How many objects the next commit has."""
        return len(self._marked)

    def mark(self, obj: StoredObject) -> None:
        """The object has changed: it goes into the next commit."""
        if not obj.dirty:
            obj.dirty = True
            self._marked.append(obj)
        self._on_marked()

    def touch_all(self) -> None:
        """Put times and versions into the next commit that were not worth one of their own."""
        for obj in self._objects.values():
            if obj.touched:
                self.mark(obj)

    def take(self, batch: Batch) -> Callable[[], None]:
        """Put all that has changed into a batch; gives what to call once that is durable."""
        taken, self._marked = self._marked, []
        for obj in taken:
            if not obj.row_id:
                obj.row_id = self._next_row
                self._next_row += 1
            objects.put(batch, obj, self._boot)
            obj.dirty, obj.committing = False, obj.committing + 1
            if obj.is_absent:
                obj.row_id = 0
        self._committing.append(taken)

        def on_durable() -> None:
            self._committing.remove(taken)
            for obj in taken:
                obj.committing -= 1
            if len(self._objects) > _KEPT:  # they could not be forgotten before
                self._sweep()

        return on_durable

    def _sweep(self) -> None:
        """Forget objects that were not used since the last sweep, the oldest first."""
        excess = len(self._objects) - _KEPT * 7 // 8
        for key, obj in list(self._objects.items()):
            if excess <= 0:
                break
            if obj.used or obj.dirty or obj.committing or obj.waiting is not None or obj.writing:
                obj.used = False
            elif obj.touched:
                self.mark(obj)
            else:
                del self._objects[key]
                excess -= 1
        self._sweep_at = max(_KEPT, len(self._objects) + _KEPT // 8)  # not at once again
