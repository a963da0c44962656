"""`python -m rbdfs`, and the command `rbdfs`."""

import signal
import sys


def run() -> int:
    """Run the command line; Ctrl-C while modules load, when nothing has begun, ends it without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rbdfs.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
