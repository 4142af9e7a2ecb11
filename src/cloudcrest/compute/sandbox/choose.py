"""Which sandbox this node holds commands in."""

from cloudcrest.compute.sandbox.api import Sandbox
from cloudcrest.kernel.errors import SetupError


def choose_sandbox(isolation: str) -> Sandbox:
    """The sandbox of this name. Raises `SetupError` where this node has none such."""
    if isolation == "plain":
        from cloudcrest.compute.sandbox.plain import PlainSandbox

        return PlainSandbox()
    raise SetupError(f"this node cannot hold commands by '{isolation}'", hint="see docs/how/isolation.md")
