"""Running a coroutine from the command line, and the errors that come out of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from rbdfs.errors import RbdfsError, TimedOut


def run_async(function: Callable[..., Awaitable[int | None]], *arguments: Any) -> int:
    """Run it under trio; an error that is alone in its group comes out on its own."""
    import trio

    try:
        # Ctrl-C ends the command's own task, which then cleans up; it must not hit one that serves it (the store).
        return trio.run(function, *arguments, restrict_keyboard_interrupt_to_checkpoints=True) or 0
    except trio.TooSlowError as err:
        raise TimedOut("the store does not answer in time") from err
    except BaseExceptionGroup as group:
        leaf = _first_leaf(group)
        if isinstance(leaf, trio.TooSlowError):
            raise TimedOut("the store does not answer in time") from group
        raise leaf from group


def _first_leaf(error: BaseException) -> BaseException:
    """The error that says most: an interruption, then one of ours, then one of the system, then any."""
    leaves: list[BaseException] = []
    pending = [error]
    while pending:
        found = pending.pop(0)
        if isinstance(found, BaseExceptionGroup):
            pending += found.exceptions
        else:
            leaves.append(found)
    for kind in (KeyboardInterrupt, RbdfsError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]
