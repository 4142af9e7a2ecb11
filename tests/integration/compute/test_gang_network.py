"""Members in bubblewrap that connect to each other, for real, and those who must not."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from cloudcrest.compute.jobs.gang.packets import DEVICE, number_of
from cloudcrest.compute.jobs.running import Stop
from tests.support.gangs import FIRST, SECOND, needs_network, program, ready_gang, running_gang
from tests.support.runners import Runner, running_runner, spec
from tests.support.waiting import until

pytestmark = [needs_network]
SIZE_BYTES = 100 << 20


def says(runner: Runner, word: str) -> str:
    until(lambda: word in runner.log(), f"it says '{word}'")
    return runner.log()


def succeeded(runners: list[Runner]) -> list[str]:
    for runner in runners:
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, end.exit_code) == ("exit", 0), runner.log()
    return [runner.log() for runner in runners]


def inside(runner: Runner) -> int:
    """A process of its sandbox."""
    children = psutil.Process(runner.process.pid).children(recursive=True)
    return next(each.pid for each in children if each.name() == "python3")


def test_two_members_exchange_streams_and_datagrams(tmp_path: Path) -> None:
    echo = """
server = listen(5000)
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind((peers[member], 5001))
connection, there = server.accept()
say("from", there[0])
connection.sendall(read(connection, 5).upper())
data, there = datagrams.recvfrom(70000)
datagrams.sendto(data[::-1], there)
data, there = datagrams.recvfrom(70000)
say("datagram of", len(data), "from", there[0])
datagrams.sendto(b"done", there)
"""
    ask = """
connection = connect(0, 5000)
connection.sendall(b"hello")
say(read(connection, 5))
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.sendto(b"abc", (peers[0], 5001))
say(datagrams.recv(100))
datagrams.sendto(bytes(65507), (peers[0], 5001))
say(datagrams.recv(100), os.environ["CLOUDCREST_ADDRESS"])
"""
    with running_gang(tmp_path, echo, ask) as runners:
        first, second = succeeded(runners)
    assert first == f"listens\nfrom {SECOND}\ndatagram of 65507 from {SECOND}\n"
    assert second == f"b'HELLO'\nb'cba'\nb'done' {SECOND}\n"


def test_a_large_transfer_arrives_as_it_was_though_its_sender_has_ended(tmp_path: Path) -> None:
    receive = """
server = listen(5000)
connection, _ = server.accept()
digest, size, buffer = hashlib.sha256(), 0, bytearray(1 << 20)
while got := connection.recv_into(buffer):
    digest.update(memoryview(buffer)[:got]); size += got
say(size, digest.hexdigest())
"""
    send = f"""
data = os.urandom({SIZE_BYTES})
connect(0, 5000).sendall(data)
say(len(data), hashlib.sha256(data).hexdigest())
"""
    with running_gang(tmp_path, receive, send) as runners:
        first, second = succeeded(runners)
    assert first == "listens\n" + second
    assert second.startswith(f"{SIZE_BYTES} ")


def test_three_members_all_reach_each_other_whoever_opens_when(tmp_path: Path) -> None:
    code = """
import threading
def serve():
    for _ in range(len(peers) - 1):
        connection, there = server.accept()
        connection.sendall(b"%d" % member)
if member == 0:
    while not os.path.exists("outputs/open"): time.sleep(0.02)
server = listen(5000)
thread = threading.Thread(target=serve)
thread.start()
others = [other for other in range(len(peers)) if other != member]
say("hears", b",".join(connect(other, 5000).recv(10) for other in others).decode())
thread.join()
"""
    with running_gang(tmp_path, code, code, code) as runners:
        says(runners[1], "listens")  # and tries to connect to the first, who has not opened yet
        (tmp_path / "job_1-0" / "work" / "outputs" / "open").touch()
        logs = succeeded(runners)
    assert logs == ["listens\nhears 1,2\n", "listens\nhears 0,2\n", "listens\nhears 0,1\n"]


def test_another_attempts_members_and_this_machine_are_not_reached(tmp_path: Path) -> None:
    serve = 'server = listen(5000); server.accept(); say("was reached")'
    wait = 'say("waits"); time.sleep(600)'
    with running_gang(tmp_path, serve, wait, job="job_theirs") as theirs, socket.create_server(("127.0.0.1", 0)) as web:
        says(theirs[0], "listens")
        ports = [web.getsockname()[1], *(runner.state().network.port for runner in theirs)]
        try_all = f"""
def tried(*place):
    try: socket.create_connection(place, timeout=20); return "reached"
    except OSError as error: return error.strerror or "no answer"
say("strangers", {{tried("{FIRST}", 5000) for _ in range(2)}})
say("machine", {{tried(host, port) for host in ("127.0.0.1", "{FIRST}", "{SECOND}") for port in {ports}}})
say("elsewhere", {{tried("192.0.2.1", 80), tried("10.78.0.1", 80)}})
"""
        with running_gang(tmp_path, try_all, wait, job="job_ours") as ours:
            says(ours[1], "waits")
            log = says(ours[0], "elsewhere")
        alone = spec(program(try_all), environment={"CLOUDCREST_MEMBER": "0", "CLOUDCREST_PEERS": FIRST})
        with running_runner(tmp_path / "alone", "auto") as runner:
            runner.run(alone)
            runner.ended()
            by_itself = runner.log()
        assert "reached" not in theirs[0].log()
    assert log.splitlines() == [
        "strangers {'Connection refused'}",
        "machine {'Connection refused'}",
        "elsewhere {'Network is unreachable'}",
    ]
    assert by_itself.splitlines()[0] == "strangers {'Network is unreachable'}"


def test_a_command_may_not_change_its_network(tmp_path: Path) -> None:
    code = f"""
import fcntl, struct
def tried(what):
    try: what(); return "could"
    except OSError as error: return error.strerror
control = socket.socket(type=socket.SOCK_DGRAM)
address = struct.pack("16sHH4s16x", b"{DEVICE}", socket.AF_INET, 0, socket.inet_aton("10.77.0.9"))
say(tried(lambda: fcntl.ioctl(control, 0x8916, address)))
say(tried(lambda: fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"{DEVICE}", 0))))
say(tried(lambda: fcntl.ioctl(control, 0x8922, struct.pack("16si20x", b"{DEVICE}", 9000))))
say(tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)))
say(tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)))
say(tried(lambda: control.setsockopt(socket.SOL_IP, 19, 1)))  # IP_TRANSPARENT: to send as another
say(tried(lambda: control.bind(("10.77.0.2", 0))))
say(tried(lambda: os.open("/dev/net/tun", os.O_RDWR)))
"""
    with running_gang(tmp_path, code, "pass") as runners:
        log, _ = succeeded(runners)
    assert log.splitlines() == [
        *["Operation not permitted"] * 6,
        "Cannot assign requested address",
        "No such file or directory",
    ]


FORGE = """
import socket, struct, sys
from cloudcrest.compute.sandbox.namespaces import join
join(int(sys.argv[1]), ("net",))
def packet(source, payload):
    inner = struct.pack(">HHHH", 9, 5001, 8 + len(payload), 0) + payload
    return struct.pack(">BBHIBBHII", 0x45, 0, 20 + len(inner), 0, 64, 17, 0, source, int(sys.argv[3])) + inner
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[2].encode())
    for source, payload in ((int(sys.argv[4]), b"forged"), (int(sys.argv[5]), b"own")):
        raw.sendto(packet(source, payload), ("10.77.0.1", 0))
"""


def test_a_forged_source_is_dropped_even_of_who_has_the_rights_to_forge(tmp_path: Path) -> None:
    receive = """
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind((peers[member], 5001))
say("ready")
while True:
    data, there = datagrams.recvfrom(100)
    say(data.decode(), "from", there[0])
"""
    meet = 'connect(0, 5002).close(); say("met"); time.sleep(600)'
    codes = (f"server = listen(5002); server.accept()\n{receive}", meet, "time.sleep(600)")
    with running_gang(tmp_path, *codes) as runners:
        says(runners[0], "ready")
        numbers = [str(number_of(member)) for member in (0, 2, 1)]
        argv = [sys.executable, "-c", FORGE, str(inside(runners[1])), DEVICE, *numbers]
        subprocess.run(argv, check=True, timeout=30)
        log = says(runners[0], "own from")
    assert log.splitlines()[-1] == f"own from {SECOND}"
    assert "forged" not in log


def test_a_killed_member_leaves_nobody_waiting(tmp_path: Path) -> None:
    wait = """
server = listen(5000)
connection, _ = server.accept()
say("connected")
try: say("read", connection.recv(10))
except OSError as error: say("read", error.strerror)
try: socket.create_connection((peers[1], 5000), timeout=30)
except OSError as error: say("then", error.strerror)
"""
    with running_gang(tmp_path, wait, "kept = connect(0, 5000); time.sleep(600)") as runners:
        says(runners[0], "connected")
        os.kill(inside(runners[1]), signal.SIGKILL)
        first = runners[0].ended()
        end = runners[1].ended().record.end
        assert end is not None
        assert (end.kind, end.signal) == ("signal", signal.SIGKILL)
        assert first.record.end is not None
        assert runners[0].log().splitlines()[-2:] == ["read b''", "then Connection refused"]


def test_a_lost_runner_holds_nobody_up(tmp_path: Path) -> None:
    serve = 'server = listen(5000)\nwhile True: server.accept()[0].sendall(b"here")'
    with running_gang(tmp_path, serve, "time.sleep(600)", "say(connect(0, 5000).recv(9)); time.sleep(600)") as runners:
        says(runners[2], "here")
        runners[1].process.kill()
        again = runners[2].post("/shells", {"argv": ["/usr/bin/python3", "-c", _ASK]}).json()["id"]
        until(lambda: b"here" in runners[2].http.get(f"/shells/{again}").content, "the others reach each other")


_ASK = f"import socket; print(socket.create_connection(('{FIRST}', 5000), timeout=30).recv(9))"


def test_a_runner_leaves_nothing_open(tmp_path: Path) -> None:
    def device_files(runner: Runner) -> list[str]:
        links = Path(f"/proc/{runner.process.pid}/fd").iterdir()
        found = [os.readlink(link) for link in links if link.is_symlink()]
        return [name for name in found if name.startswith(("/dev/net", "socket:"))]

    with ready_gang(tmp_path, program("pass"), program("pass")) as runners:
        before = [len(device_files(runner)) for runner in runners]
        assert all(runner.post("/stop", Stop("cancelled", "it was cancelled")).status_code == 200 for runner in runners)
        assert all(runner.http.delete("/").status_code == 204 for runner in runners)
        for runner, count in zip(runners, before, strict=True):
            until(lambda r=runner, c=count: len(device_files(r)) < c, "it listens no more")  # type: ignore[misc]
    with running_gang(tmp_path, "listen(5000).accept()", "connect(0, 5000)", job="job_2") as runners:
        succeeded(runners)
        held = [len(device_files(runner)) for runner in runners]
        assert all("/dev/net/tun" in device_files(runner) for runner in runners)
        assert all(runner.http.delete("/").status_code == 204 for runner in runners)
        for runner, count in zip(runners, held, strict=True):
            until(lambda r=runner, c=count: len(device_files(r)) <= c - 3, "all is closed")  # type: ignore[misc]
            assert "/dev/net/tun" not in device_files(runner)


def test_a_machine_without_devices_says_so() -> None:
    def at(path: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; from cloudcrest.compute.sandbox import namespaces as n; n._DEVICES = {path!r}\n"
        run = [sys.executable, "-c", code + "sys.exit(n.try_device())"]
        return subprocess.run(run, capture_output=True, text=True, check=False)

    assert at("/dev/net/none").stderr == "/dev/net/none cannot be used: No such file or directory\n"
    assert at("/dev/net/none").returncode == 1
    assert at("/dev/net/tun").returncode == 0
