"""How a long operation tells how far it is."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]  # done, total; in units of the operation's own


def quiet(_done: int, _total: int) -> None:
    """Nobody is listening."""
