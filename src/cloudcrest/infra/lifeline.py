"""The lifeline: how a child learns that the supervisor is gone, however it went.

The supervisor holds the write end of a pipe and never writes to it; every child inherits the read end, its number in
`CLOUDCREST_LIFELINE_FD`. The kernel closes the write end when the supervisor ends (kill -9 included), and the read end
then reads as end of file. Unlike a parent-death signal this works on every POSIX system and for grandchildren.
"""

import os
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn

from cloudcrest.kernel.errors import SetupError

LIFELINE_VARIABLE = "CLOUDCREST_LIFELINE_FD"
EXIT_CODE = 74
"""What a child exits with when its lifeline broke."""
EXIT_SETUP = 78
"""What a process of ours exits with after a `SetupError` (EX_CONFIG): its last words say what to do."""
SETUP_ERROR_PREFIX = "setup error: "


class Lifeline:
    """The supervisor's side: holds both ends open for as long as the process lives."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def environment(self) -> dict[str, str]:
        """What a child needs in its environment; hand `read_fd` to it as well."""
        return {LIFELINE_VARIABLE: str(self.read_fd)}

    def close(self) -> None:
        """Lets go: every child that still runs ends at once."""
        os.close(self._write_fd)
        os.close(self.read_fd)


def lifeline_fd(environment: Mapping[str, str] = os.environ) -> int | None:
    """The inherited read end; None when this process was not started by a supervisor."""
    value = environment.get(LIFELINE_VARIABLE)
    return int(value) if value else None


def exit_with_lifeline() -> None:
    """Ends this process at once when the supervisor is gone; does nothing without a supervisor.

    A daemon thread waits for it, so a busy event loop does not delay the end. What must survive is on disk already.
    """
    fd = lifeline_fd()
    if fd is None:
        return

    def wait() -> None:
        while os.read(fd, 1) != b"":
            pass
        os._exit(EXIT_CODE)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def exit_with_setup_error(error: SetupError) -> NoReturn:
    """Ends this process, saying why it cannot run here where its supervisor looks: on the last line of its errors."""
    sys.stderr.write(f"{SETUP_ERROR_PREFIX}{error}\n")
    sys.exit(EXIT_SETUP)
