"""How far a long operation is, on a terminal only: `Importing image: 50% complete...done.`, as `rbd` shows it."""

import sys
from types import TracebackType


class Progress:
    """Call it with (done, total); inside a `with`, whose end says `done.` or `failed.`."""

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self._title = title
        self._enabled = enabled and sys.stderr.isatty()
        self._percent = -1

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show the percentage where it has changed."""
        percent = done * 100 // total if total else 100
        if self._enabled and percent != self._percent:
            self._percent = percent
            sys.stderr.write(f"\r{self._title}: {percent}% complete...")
            sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._enabled:
            if error is None:
                self(1, 1)
            elif self._percent < 0:
                self(0, 1)
            sys.stderr.write("done.\n" if error is None else "failed.\n")
            sys.stderr.flush()
