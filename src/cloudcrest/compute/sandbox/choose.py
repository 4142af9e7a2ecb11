"""Which sandbox this node holds commands in."""

from cloudcrest.compute.sandbox.api import Sandbox, SandboxProcess, SandboxSpec
from cloudcrest.kernel.errors import SetupError


def choose_sandbox(isolation: str, *, is_trusted: bool) -> Sandbox:  # noqa: ARG001 - who is trusted needs less
    """The sandbox of this name, or one that says why this node has none such. `is_trusted`: by the operator, to run
    without one where there is none.
    """
    if isolation == "plain":
        from cloudcrest.compute.sandbox.plain import PlainSandbox

        return PlainSandbox()
    return RefusingSandbox(f"this node cannot hold commands by '{isolation}'")


class RefusingSandbox:
    """Implements `sandbox.api.Sandbox` where there is none: starts nothing, and says why."""

    isolation = "none"
    has_own_view = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:  # noqa: ARG002
        """Raises `SetupError`."""
        raise SetupError(self._reason, hint="see docs/how/isolation.md")
