"""`python -m cloudcrest.compute.fabric.ray.start …`: `ray start … --block`, which ends with its supervisor."""

import sys

from cloudcrest.compute.fabric.ray.mending import ignore_other_nodes, keep_loopback
from cloudcrest.infra.lifeline import exit_with_lifeline


def main() -> int:
    """Runs Ray's command line; its exit code. What Ray starts is killed by the kernel when this process ends."""
    exit_with_lifeline()
    from ray.scripts import scripts

    keep_loopback()
    ignore_other_nodes()
    sys.argv[0] = "ray"
    return int(scripts.cli(["start", "--block", *sys.argv[1:]]) or 0)


if __name__ == "__main__":
    sys.exit(main())
