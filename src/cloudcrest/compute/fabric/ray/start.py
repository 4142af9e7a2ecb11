"""`python -m cloudcrest.compute.fabric.ray.start …`: `ray start … --block`, which ends with its supervisor."""

import sys
from collections.abc import Sequence

from cloudcrest.compute.fabric.ray.head_watch import end_with, wait_for
from cloudcrest.compute.fabric.ray.mending import ignore_other_nodes, keep_loopback
from cloudcrest.infra.lifeline import exit_with_lifeline, exit_with_setup_error
from cloudcrest.kernel.errors import SetupError

_ADDRESS = "--address="
_TOKEN_SECONDS = 5.0


def main(arguments: Sequence[str]) -> int:
    """Runs Ray's command line; its exit code. What Ray starts is killed by the kernel when this process ends."""
    exit_with_lifeline()
    from ray.scripts import scripts

    for head in (each.removeprefix(_ADDRESS) for each in arguments if each.startswith(_ADDRESS)):
        wait_for(head)
        _check_token(head)
        end_with(head)
    keep_loopback()
    ignore_other_nodes()
    sys.argv = ["ray", "start", "--block", *arguments]
    return int(scripts.cli() or 0)


def _check_token(head: str) -> None:
    """Ends this process where the head does not take our token: Ray would try for ever, and not say so."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=head).get_all_node_info(timeout=_TOKEN_SECONDS)
    except AuthenticationError:
        exit_with_setup_error(
            SetupError(f"the cloud at {head} does not take this token", hint="copy its node-token to --token-file")
        )
    except (RayError, OSError):
        return  # whatever else is wrong, Ray says


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
