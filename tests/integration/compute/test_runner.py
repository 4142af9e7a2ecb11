"""A runner and its command as real processes: their end, however it comes, and what is left of them."""

import os
import signal
import time
from pathlib import Path

import pytest

from cloudcrest.compute.jobs.running import Input, RunRecord, Stop
from tests.integration.compute.processes import is_alive
from tests.support.runners import Runner, python, running_runner, spec
from tests.support.waiting import until


def pid_in_log(runner: Runner) -> int:
    """The number that the command prints first."""
    return int(until(lambda: runner.log().split("\n")[0] if "\n" in runner.log() else "", "the command says its pid"))


def test_a_command_runs_to_its_end_and_leaves_log_times_and_outputs(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; print('hello', os.environ['GREETING'], os.environ['PEER'], os.environ['SECRET']);"
        "pathlib.Path('outputs/sub').mkdir(); pathlib.Path('outputs/sub/a.txt').write_text('kept');"
        "os.symlink('/etc/passwd', 'outputs/link'); raise SystemExit(3)"
    )
    wanted = spec(python(code), environment={"GREETING": "du"}, secrets={"SECRET": "s3cret"})
    with running_runner(tmp_path) as runner:
        runner.post("/prepare", wanted)
        until(lambda: runner.state().phase == "ready", "it is ready")
        assert runner.state().record.started_at is None
        runner.post("/go", {"environment": {"PEER": "10.0.0.1"}})
        state = runner.ended()
        assert state.record.end is not None
        assert (state.record.end.kind, state.record.end.exit_code) == ("exit", 3)
        assert state.record.started_at is not None
        assert state.record.ended_at is not None
        assert state.record.ended_at >= state.record.started_at
        assert runner.log() == "hello du 10.0.0.1 s3cret\n"
        files = runner.http.get("/outputs").json()["files"]
        assert [(file["name"], file["size_bytes"]) for file in files] == [("outputs/sub/a.txt", 4)]
        assert runner.http.get("/outputs/content", params={"name": "outputs/sub/a.txt"}).text == "kept"
        assert runner.http.get("/outputs/content", params={"name": "outputs/link"}).status_code == 404
        assert runner.http.get("/outputs/content", params={"name": "../record.json"}).status_code == 400
        on_disk = (tmp_path / "record.json").read_text()
    assert "s3cret" not in on_disk


def test_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        for method, path in (("GET", "/state"), ("GET", "/log"), ("POST", "/go"), ("POST", "/shells")):
            answer = runner.http.request(method, path, headers={"authorization": "Bearer guess"})
            assert answer.status_code == 401


def test_a_command_sees_the_accelerators_that_its_runner_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    wanted = spec(
        python("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"), environment={"CUDA_VISIBLE_DEVICES": "0"}
    )
    with running_runner(tmp_path) as runner:
        runner.run(wanted)
        runner.ended()
        assert runner.log() == "3\n"


def test_inputs_are_handed_in_and_checked(tmp_path: Path) -> None:
    wanted = spec(python("print(open('data/in.txt').read())"), inputs=(Input("data/in.txt", is_handed_in=True),))
    with running_runner(tmp_path) as runner:
        runner.post("/prepare", wanted)
        assert runner.state().needs == ("data/in.txt",)
        assert runner.http.put("/inputs", params={"path": "other"}, content=b"x").status_code == 404
        assert runner.http.put("/inputs", params={"path": "data/in.txt"}, content=b"given").status_code == 204
        until(lambda: runner.state().phase == "ready", "it is ready")
        runner.post("/go")
        runner.ended()
        assert runner.log() == "given\n"


def test_one_that_waits_for_its_inputs_is_stopped_at_once(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        runner.post("/prepare", spec(("true",), inputs=(Input("in.txt", is_handed_in=True),)))
        runner.post("/stop", Stop("cancelled", "its owner cancelled it"))
        end = runner.ended().record.end
        assert end is not None
        assert end.kind == "cancelled"
        runner.process.terminate()
        assert runner.process.wait(timeout=8) == 0


def test_an_input_from_inside_the_network_is_refused(tmp_path: Path) -> None:
    wanted = spec(("true",), inputs=(Input("metadata", url="http://169.254.169.254/latest"),))
    with running_runner(tmp_path) as runner:
        runner.post("/prepare", wanted)
        end = runner.ended().record.end
        assert end is not None
        assert end.kind == "prepare"
        assert "may not be called" in end.message


def test_a_command_that_is_not_there_ends_as_in_a_shell(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        runner.run(spec(("no-such-program",)))
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, end.exit_code) == ("exit", 127)


def test_where_nothing_can_hold_a_command_it_does_not_run(tmp_path: Path) -> None:
    with running_runner(tmp_path, "no-such-isolation") as runner:
        runner.run(spec((*python("open('ran', 'w')"),)))
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, "no-such-isolation" in end.message) == ("prepare", True)
        assert not (tmp_path / "work/ran").exists()


def test_it_is_asked_to_end_and_may_save_its_work(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "def save(*_):\n    open('outputs/checkpoint', 'w').write('42'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save); print(os.getpid(), flush=True); time.sleep(600)"
    )
    with running_runner(tmp_path) as runner:
        runner.run(spec(python(code)))
        pid = pid_in_log(runner)
        runner.post("/stop", Stop("preempted", "another needs its place"))
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, end.message) == ("preempted", "another needs its place")
        assert runner.http.get("/outputs/content", params={"name": "outputs/checkpoint"}).text == "42"
        assert not is_alive(pid)


def test_what_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with running_runner(tmp_path) as runner:
        runner.run(spec(python(code), grace_seconds=0.2))
        child = pid_in_log(runner)
        runner.post("/stop", Stop("cancelled", "its owner cancelled it"))
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, end.signal) == ("cancelled", signal.SIGKILL)
        until(lambda: not is_alive(child), "its child is gone")


def test_a_time_limit_ends_it(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        runner.run(spec(python("import time; time.sleep(600)"), time_limit_seconds=0.3))
        end = runner.ended().record.end
        assert end is not None
        assert end.kind == "time_limit"


def test_a_killed_runner_takes_its_command_along_and_is_closed_by_the_next(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        runner.run(spec(python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")))
        pid = pid_in_log(runner)
        os.kill(runner.process.pid, signal.SIGKILL)
        runner.process.wait()
        until(lambda: not is_alive(pid), "the command is gone")
    with running_runner(tmp_path) as after:
        record: RunRecord = after.state().record
        assert after.state().phase == "ended"
        assert record.end is not None
        assert record.end.kind == "lost"
        assert record.ended_at == record.marked_at
        assert after.log().strip() == str(pid)


def test_what_nobody_came_for_goes_from_the_node(tmp_path: Path) -> None:
    for name, age_days in (("job_old-1-0", 31), ("job_young-1-0", 1)):
        (tmp_path / name / "work").mkdir(parents=True)
        left_at = time.time() - age_days * 86_400
        os.utime(tmp_path / name, (left_at, left_at))
    with running_runner(tmp_path / "job_1-1-0"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job_1-1-0", "job_young-1-0"]


def test_a_runner_that_is_stopped_ends_its_command_first(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        runner.run(spec(python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")))
        pid = pid_in_log(runner)
    assert not is_alive(pid)
    assert '"kind":"lost"' in (tmp_path / "record.json").read_text()


def test_a_shell_runs_beside_the_command(tmp_path: Path) -> None:
    with running_runner(tmp_path) as runner:
        assert runner.post("/shells").status_code == 409
        runner.run(spec(python("import time; time.sleep(600)"), environment={"OF": "the job"}))
        shell = runner.post("/shells", {"argv": ["/bin/sh"], "columns": 101, "rows": 31}).json()["id"]

        def shown() -> str:
            return runner.http.get(f"/shells/{shell}").text

        runner.http.post(f"/shells/{shell}/input", content=b"echo $OF; stty size; tty\n")
        until(lambda: "31 101" in shown() and "/dev/pts/" in shown(), "the shell answers")
        assert "the job\r\n" in shown()
        runner.post(f"/shells/{shell}/size", {"columns": 90, "rows": 20})
        runner.http.post(f"/shells/{shell}/input", content=b"stty size; exit 7\n")
        until(lambda: runner.http.get(f"/shells/{shell}").headers.get("x-exit-code") == "7", "the shell has ended")
        assert "20 90" in shown()
        assert runner.http.post(f"/shells/{shell}/input", content=b"x").status_code == 409
        assert runner.http.get("/shells/other").status_code == 404


def test_its_use_is_measured(tmp_path: Path) -> None:
    code = "x = bytearray(60_000_000); import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(600)"
    with running_runner(tmp_path) as runner:
        runner.run(spec(python(code)))
        until(lambda: runner.http.get("/metrics").json()["cpu_seconds"] >= 0.3, "it is seen")
        found = runner.http.get("/metrics").json()
        assert found["memory_peak_bytes"] >= 60_000_000
        runner.post("/stop", Stop("cancelled", "enough"))
        assert runner.ended().record.cpu_seconds >= 0.3
