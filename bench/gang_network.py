"""What the network of a job's members carries, beside this machine's plain loopback.

    python -m bench.gang_network [--rounds N] [--mebibytes N] [--exchanges N]

Two members over two real runners, in bubblewrap, both on this machine; and the same two programs without any of it, on
127.0.0.1. Each round sends one way, both ways at once, then exchanges small messages. Prints a table of medians, and
what the runners' processors did meanwhile; writes bench/out/gang_network.json. Linux, as root or as whom /dev/net/tun
is open to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import psutil
from tests.support.gangs import PRELUDE, PROBLEM, PYTHON, running_gang
from tests.support.runners import Runner
from tests.support.waiting import until

OUT = Path(__file__).parent / "out" / "gang_network.json"
SECONDS = 600.0
CODE = """
import json, threading
ROUNDS, SIZE, EXCHANGES = {rounds}, {size}, {exchanges}
piece, buffer = bytes(1 << 20), bytearray(1 << 20)
def send(connection):
    for _ in range(SIZE >> 20): connection.sendall(piece)
def receive(connection):
    left = SIZE
    while left: left -= connection.recv_into(buffer, min(left, 1 << 20))
def timed(*works):
    threads = [threading.Thread(target=work, args=(connection,)) for work in works]
    connection.sendall(b"b") if member else connection.recv(1)
    began = time.perf_counter()
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    connection.recv(1) if member else connection.sendall(b"e")
    return SIZE / (time.perf_counter() - began) / 1e6
def exchange():
    took = []
    for _ in range(EXCHANGES):
        began = time.perf_counter()
        if member:
            connection.sendall(bytes(64)); read(connection, 64)
        else:
            connection.sendall(read(connection, 64))
        took.append((time.perf_counter() - began) * 1e6)
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]
connection = listen({port}).accept()[0] if member == 0 else connect(0, {port})
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(ROUNDS):
    one_way = timed(send if member else receive)
    both_ways = timed(send, receive)
    p50, p99 = exchange()
    if member: say(json.dumps(dict(one_way=one_way, both_ways=both_ways, p50=p50, p99=p99)))
"""
Round = dict[str, float]


def code(arguments: argparse.Namespace, port: int) -> str:
    """What both members run."""
    return CODE.format(
        rounds=arguments.rounds, size=arguments.mebibytes << 20, exchanges=arguments.exchanges, port=port
    )


def plain(arguments: argparse.Namespace, port: int) -> list[Round]:
    """Two processes on loopback."""
    running = []
    for member in range(2):
        environment = {**os.environ, "CLOUDCREST_MEMBER": str(member), "CLOUDCREST_PEERS": "127.0.0.1,127.0.0.1"}
        argv = [str(PYTHON), "-c", PRELUDE + code(arguments, port)]
        running.append(subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=SECONDS)[0] for process in running]
    return [json.loads(line) for line in outputs[1].splitlines()]


def has_ended(runner: Runner) -> bool:
    """Whether its command has."""
    return runner.state().phase == "ended"


def of_members(arguments: argparse.Namespace, port: int) -> tuple[list[Round], Round]:
    """Two members of a job; and the seconds of processor time that their runners took for a gigabyte carried."""
    with tempfile.TemporaryDirectory() as folder, running_gang(Path(folder), *[code(arguments, port)] * 2) as runners:
        processes = [psutil.Process(runner.process.pid) for runner in runners]
        before = [process.cpu_times() for process in processes]
        for runner in runners:
            until(partial(has_ended, runner), "it has ended", seconds=SECONDS, pause_seconds=1)
        after = [process.cpu_times() for process in processes]
        rounds = [json.loads(line) for line in runners[1].log().splitlines()]
    carried_bytes = arguments.rounds * 3 * (arguments.mebibytes << 20)
    took = {
        kind: sum(getattr(ends, kind) - getattr(begins, kind) for begins, ends in zip(before, after, strict=True))
        for kind in ("user", "system")
    }
    return rounds, {kind: seconds / carried_bytes * 1e9 for kind, seconds in took.items()}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gang_network", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mebibytes", type=int, default=1024, help="sent in each direction")
    parser.add_argument("--exchanges", type=int, default=5_000, help="of 64 bytes there and back")
    parser.add_argument("--port", type=int, default=29_500)
    arguments = parser.parse_args()
    if PROBLEM:
        sys.exit(PROBLEM)
    load = os.getloadavg()[0]
    rounds, cpu_seconds = of_members(arguments, arguments.port)
    found = {"loopback": plain(arguments, arguments.port), "members": rounds}
    medians = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    rows = (
        ("one way, MB/s", "one_way", ".0f"),
        ("both ways at once, MB/s each", "both_ways", ".0f"),
        ("64 bytes there and back, p50 µs", "p50", ".1f"),
        ("the same, p99 µs", "p99", ".1f"),
    )
    print(f"load average before: {load:.1f}\n\n| | loopback | members |\n|---|---|---|")
    for title, key, form in rows:
        print(f"| {title} | {medians['loopback'][key]:{form}} | {medians['members'][key]:{form}} |")
    print("\nprocessor seconds of both runners for each GB: {user:.2f} user, {system:.2f} system".format(**cpu_seconds))
    OUT.parent.mkdir(exist_ok=True)
    kept = {"medians": medians, "rounds": found, "runner_cpu_seconds_per_gb": cpu_seconds, "load_average": load}
    OUT.write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
