"""What one turn of the event loop sends leaves at its end: one `sendmsg` for all messages of a connection.

At 16 ops in flight this saves a third of the time of an op (about seven messages a call). Trio tells an instrument
when it is about to wait for I/O, which is that end of the turn. An instrument must not wake tasks (trio has computed by
then how long it waits), so what could not be sent is handed to a task by `run_sync_soon`.
"""

from typing import Protocol

import trio


class Sender(Protocol):
    """Something with bytes to send."""

    def flush(self) -> None:
        """Send what is queued, without waiting or waking a task."""


class Outbox(trio.abc.Instrument):
    """The senders of one trio run that have something queued."""

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def add(self, sender: Sender) -> None:
        """Flush `sender` before the loop waits; once for each call."""
        self._senders.append(sender)

    def before_io_wait(self, timeout: float) -> None:
        """End of a turn."""
        if self._senders:
            senders, self._senders = self._senders, []
            for sender in senders:
                sender.flush()


_OUTBOX: trio.lowlevel.RunVar[Outbox] = trio.lowlevel.RunVar("rbdfs outbox")


def current_outbox() -> Outbox:
    """The outbox of this trio run, made at its first use."""
    try:
        return _OUTBOX.get()
    except LookupError:
        outbox = Outbox()
        _OUTBOX.set(outbox)
        trio.lowlevel.add_instrument(outbox)
        return outbox
