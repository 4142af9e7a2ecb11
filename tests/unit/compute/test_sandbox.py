"""Which sandbox holds what, and how a container is told; nothing is started."""

from pathlib import Path

import pytest

from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.sandbox.api import Bind, SandboxSpec
from cloudcrest.compute.sandbox.choose import Node, RefusingSandbox, choose_sandbox, decide
from cloudcrest.compute.sandbox.container import ContainerSandbox
from cloudcrest.compute.sandbox.limiting import how_it_ended
from cloudcrest.compute.sandbox.plain import PlainSandbox
from cloudcrest.compute.sandbox.profile import narrowed
from cloudcrest.compute.sandbox.proxy import AllowList
from cloudcrest.compute.sandbox.runtime import RuntimeFiles, check_image, create_argv, user_argv
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.kernel.errors import InvalidInput, SetupError


@pytest.mark.parametrize(
    ("runtime", "problem", "image", "trusted", "kind"),
    [
        ("podman", "", True, False, "container"),
        ("", "", True, True, "none"),
        ("podman", "", False, False, "bubblewrap"),
        ("podman", "is not installed", False, False, "none"),
        ("podman", "is not installed", False, True, "rlimits"),
        ("", "", False, True, "bubblewrap"),
    ],
)
def test_the_strongest_that_there_is_and_none_for_whom_nobody_trusts(
    runtime: str, problem: str, image: bool, trusted: bool, kind: str
) -> None:
    found, why = decide(Node(runtime, problem), wants_image=image, is_trusted=trusted)
    assert found == kind
    assert bool(why) == (kind == "none")


@pytest.mark.anyio
async def test_a_refusal_says_why_and_where_to_read_on() -> None:
    assert isinstance(choose_sandbox("plain", is_trusted=False, policy=OutboundPolicy()), PlainSandbox)
    refusing = choose_sandbox("magic", is_trusted=True, policy=OutboundPolicy())
    assert isinstance(refusing, RefusingSandbox)
    with pytest.raises(SetupError, match="there is no isolation 'magic'"):
        await refusing.start(SandboxSpec("s", ("true",), Path("/nowhere")), 1)


def test_a_container_gets_no_rights_and_no_network() -> None:
    spec = SandboxSpec(
        "job_1-1-0", ("python", "train.py"), Path("/jobs/work"), environment={"TOKEN": "secret"},
        binds=(Bind(Path("/volumes/d"), "/data"), Bind(Path("/volumes/o"), "/out", is_writable=True)),
        image="python:3.13", cpu_milli=2_500, memory_bytes=1 << 30, processes=64,
    )  # fmt: skip
    argv = create_argv(
        "podman", spec, RuntimeFiles("/jobs/env", "/jobs/hosts"), user_argv("podman", 0, 0, is_rootless=False)
    )
    line = " ".join(argv)
    for words in (
        "--network none", "--cap-drop ALL", "--label cloudcrest.sandbox=job_1-1-0", "--user 65534:65534", "--read-only",
        "no-new-privileges", "--pids-limit 64", "--memory 1073741824", "--cpus 2.5", "--volume /volumes/d:/data:ro",
        "--volume /volumes/o:/out ",
    ):  # fmt: skip
        assert words in line
    assert argv[-3:] == ("python:3.13", "python", "train.py")
    assert "secret" not in line
    assert "--privileged" not in line


@pytest.mark.parametrize(
    ("runtime", "uid", "is_rootless", "words"),
    [
        ("docker", 0, False, "--user 65534:65534"),
        ("podman", 0, False, "--user 65534:65534"),
        ("podman", 1000, True, "--userns keep-id:uid=65534,gid=65534 --user 65534:65534"),
        ("docker", 1000, True, "--user 0:0"),
        ("nerdctl", 1000, True, "--user 0:0"),
        ("docker", 1000, False, "--user 1000:1001"),
    ],
)
def test_a_container_runs_as_who_may_write_to_its_folders(
    runtime: str, uid: int, is_rootless: bool, words: str
) -> None:
    assert " ".join(user_argv(runtime, uid, 1001, is_rootless=is_rootless)) == words


def _chips(family: str, *uuids: str) -> tuple[AcceleratorFacts, ...]:
    return tuple(AcceleratorFacts(number * 2, family, "t", "T", 1, uuid=uuid) for number, uuid in enumerate(uuids))


@pytest.mark.parametrize(
    ("runtime", "chips", "words"),
    [
        ("docker", _chips("nvidia", "GPU-a", "GPU-b"), '--gpus "device=GPU-a,GPU-b" --'),
        ("nerdctl", _chips("nvidia", "", ""), '--gpus "device=0,2" --'),
        (
            "podman",
            _chips("nvidia", "GPU-a", "GPU-b"),
            "--device nvidia.com/gpu=GPU-a --device nvidia.com/gpu=GPU-b --",
        ),
        ("docker", _chips("ascend", ""), "--device /dev/davinci0 --device /dev/hisi_hdc --"),
    ],
)
def test_a_container_gets_its_chips_by_what_does_not_change(
    runtime: str, chips: tuple[AcceleratorFacts, ...], words: str
) -> None:
    files = ("/dev/davinci0", "/dev/hisi_hdc")
    spec = SandboxSpec("a", ("x",), Path("/w"), image="alpine", accelerators=chips, devices=files)
    assert words in " ".join(create_argv(runtime, spec, RuntimeFiles("/e", "/h"), ()))


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_it"),
    [
        ("pypi.org", "pypi.org", 443, True),
        ("pypi.org", "PyPI.org.", 80, True),
        ("pypi.org", "evilpypi.org", 443, False),
        ("pypi.org", "pypi.org", 22, False),
        ("pypi.org:8443", "pypi.org", 8443, True),
        ("pypi.org:8443", "pypi.org", 443, False),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "badexample.com", 443, False),
    ],
)
def test_who_is_on_the_list(entry: str, host: str, port: int, is_it: bool) -> None:
    assert AllowList([entry]).has(host, port) == is_it


@pytest.mark.anyio
@pytest.mark.parametrize("image", ["-h", "--privileged", ":x"])
async def test_an_image_is_never_an_option_of_the_runtime(image: str, tmp_path: Path) -> None:
    # `-h` is help to `docker image inspect`, and to `docker run` the option that takes the command's first word.
    spec = SandboxSpec("a", ("host", "--privileged", "-v", "/:/host", "alpine"), tmp_path, image=image)
    with pytest.raises(InvalidInput, match="image"):
        await ContainerSandbox("true", OutboundPolicy()).start(spec, 1)
    argv = create_argv("docker", SandboxSpec("a", ("x",), tmp_path, image="alpine"), RuntimeFiles("/e", "/h"), ())
    assert argv[-3:] == ("--", "alpine", "x")


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        ("python", True),
        ("python:3.13-slim", True),
        ("localhost/team/image:1", True),
        ("registry.example.com:5000/Team/image@sha256:" + "a" * 64, True),
        ("docker.io/library/alpine", True),
        ("docker-archive:/volumes/theirs.tar", False),
        ("dir:/volumes/theirs", False),
        ("oci:theirs", False),
        ("docker://alpine", False),
        ("registry.example.com:5000", True),  # a tag
        ("a//b", False),
        ("../image", False),
        ("", False),
    ],
)
def test_an_image_is_a_name_and_no_file_of_the_node(image: str, is_one: bool) -> None:
    if is_one:
        check_image(image)
    else:
        with pytest.raises(InvalidInput):
            check_image(image)


@pytest.mark.anyio
async def test_an_image_that_is_nowhere_is_refused_by_name() -> None:
    await ContainerSandbox("true", OutboundPolicy()).fetch("alpine")
    with pytest.raises(InvalidInput, match="the image 'alpine' cannot be fetched"):
        await ContainerSandbox("false", OutboundPolicy()).fetch("alpine")


def test_a_profile_is_narrowed_to_what_bubblewrap_allows_and_by_nothing_else() -> None:
    wide = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "mount", "clone", "clone3", "socket"], "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        ],
    }
    found = narrowed(wide)
    allowed = [rule for rule in found["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    assert (allowed[0]["names"], {name for rule in allowed[1:] for name in rule["names"]}) == (
        ["read"],
        {"clone", "socket"},
    )
    assert all(rule["args"] for rule in allowed[1:])
    families = {rule["args"][0]["value"] for rule in allowed if rule["names"] == ["socket"]}
    assert {1, 2, 10, 16} <= families
    assert not {38, 40} & families
    refused = {name for rule in found["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO" for name in rule["names"]}
    assert {"mount", "unshare", "bpf", "clone3", "io_uring_setup", "keyctl"} <= refused
    assert found["archMap"][0]["subArchitectures"] == []
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"


@pytest.mark.anyio
async def test_a_variable_that_a_container_cannot_have_is_refused_by_name(tmp_path: Path) -> None:
    spec = SandboxSpec("a", ("x",), tmp_path, {"FINE": "1", "KEY_PEM": "one\ntwo"}, image="alpine")
    with pytest.raises(InvalidInput, match="KEY_PEM"):
        await ContainerSandbox("true", OutboundPolicy()).start(spec, 1)


def test_an_end_is_told_as_a_shell_tells_it() -> None:
    assert [how_it_ended(code) for code in (0, 3, 137, -9, 255)] == [
        (0, None), (3, None), (None, 9), (None, 9), (255, None)
    ]  # fmt: skip
