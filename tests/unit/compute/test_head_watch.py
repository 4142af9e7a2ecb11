"""A node's Ray ends when nothing listens any more where its head was."""

import socket
import subprocess
import sys
import threading

from cloudcrest.compute.fabric.ray.head_watch import EXIT_CODE, is_refused, wait_for
from tests.support.waiting import until

WATCHING = (
    "import sys, threading; from cloudcrest.compute.fabric.ray.head_watch import end_with;"
    "end_with(sys.argv[1]); print('watches', flush=True); threading.Event().wait()"
)


def test_it_ends_with_its_head_and_not_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = f"127.0.0.1:{listening.getsockname()[1]}"
        assert not is_refused(head)
        watching = subprocess.Popen((sys.executable, "-c", WATCHING, head), stdout=subprocess.PIPE)
        assert watching.stdout is not None
        try:
            assert watching.stdout.readline() == b"watches\n"
            for _ in range(3):  # it looks again and again: ours just now, then its own
                listening.accept()[0].close()
            assert watching.poll() is None
            listening.close()
            assert watching.wait(timeout=30) == EXIT_CODE
        finally:
            watching.kill()
            watching.wait()
            watching.stdout.close()
    assert is_refused(head)
    wait_for(head, seconds=0)


def test_a_head_that_is_on_its_way_is_waited_for() -> None:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        head = f"127.0.0.1:{there.getsockname()[1]}"
        waiting = threading.Thread(target=wait_for, args=(head,), kwargs={"seconds": 30.0})
        waiting.start()
        assert is_refused(head)
        there.listen()
        until(lambda: not waiting.is_alive(), "it has been waited for")
