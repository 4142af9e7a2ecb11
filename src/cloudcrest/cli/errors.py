"""What goes wrong on a command line, and the exit codes that say so to scripts.

0  done
1  the cloud, or this machine, refused: the message says why
2  the command line itself is wrong
3  no cloud could be reached
"""

from typing import ClassVar

from cloudcrest.kernel.errors import CloudcrestError

FAILURE = 1
USAGE = 2
UNREACHABLE = 3


class Refused(CloudcrestError):
    """The cloud answered with an error; `status_code` is its HTTP status."""

    default_code = "refused"
    title = "Refused"

    def __init__(self, message: str, *, status_code: int, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status_code = status_code


class WrongUsage(CloudcrestError):
    """The arguments do not make sense together."""

    default_code = "usage"
    title = "Usage"
    exit_code: ClassVar[int] = USAGE


class Unreachable(CloudcrestError):
    """Nothing answers where the cloud should be, or it is not known where that is."""

    default_code = "unreachable"
    title = "Unreachable"
    exit_code: ClassVar[int] = UNREACHABLE


def exit_code_of(error: CloudcrestError) -> int:
    """The exit code that tells a script what kind of error this is."""
    code = getattr(error, "exit_code", FAILURE)
    return code if isinstance(code, int) else FAILURE
