"""Which system calls a command in a container may make, where the runtime's own profile is wider than it need be. Pure.

Podman's default profile is made for containers in containers: it allows mounts, namespaces and keys to whoever has no
rights, as new namespaces give some. Of it this leaves what bubblewrap's filter does (filter.py).
"""

from collections.abc import Mapping
from typing import Any

from cloudcrest.compute.sandbox.filter import ABSENT, FAMILIES, NAMESPACES, REFUSED

_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS = 1, 38
_LAST_FAMILY = 45
_NETLINK, _AUDIT = 16, 9
"""AF_NETLINK, and NETLINK_AUDIT of it: the kernel's log of who did what."""


def narrowed(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile (containers/common's `seccomp.json`) without those calls, and for the machine's own word size alone."""
    taken = {*REFUSED, "umount", *ABSENT, "clone", "socket"}
    rules = [
        {**rule, "names": names}
        for rule in profile.get("syscalls") or ()
        if (names := [name for name in rule.get("names") or () if name not in taken])
    ]
    rules += [
        {"names": sorted({*REFUSED, "umount"}), "action": _ERRNO, "errnoRet": _EPERM},
        {"names": sorted(ABSENT), "action": _ERRNO, "errnoRet": _ENOSYS},
        _allowed("clone", _argument(0, "SCMP_CMP_MASKED_EQ", NAMESPACES)),
        _allowed("socket", _argument(0, "SCMP_CMP_EQ", _NETLINK), _argument(2, "SCMP_CMP_NE", _AUDIT)),
    ]
    others = (each for each in range(_LAST_FAMILY + 1) if each not in {*FAMILIES, _NETLINK})
    rules += [_allowed("socket", _argument(0, "SCMP_CMP_EQ", family)) for family in others]
    architectures = [{**each, "subArchitectures": []} for each in profile.get("archMap") or ()]
    return {**profile, "archMap": architectures, "syscalls": rules}


def _allowed(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": _ALLOW, "args": list(arguments)}


def _argument(index: int, comparison: str, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": comparison}
