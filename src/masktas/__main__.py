"""`python -m masktas` is `masktas`.

Ctrl-C while the imports run ends the process without a traceback.
"""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from masktas.cli import main as run

    run()


if __name__ == "__main__":
    main()
