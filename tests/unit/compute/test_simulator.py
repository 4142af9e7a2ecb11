"""The simulator: traces read, and replayed by the live scheduler to the same end each time."""

import gzip
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.scheduler.model import Demand, Workload
from cloudcrest.compute.scheduler.quotas import Quota
from cloudcrest.compute.simulator.plot import svg
from cloudcrest.compute.simulator.quotas import equal_parts
from cloudcrest.compute.simulator.replay import Options, Outcome, Replay
from cloudcrest.compute.simulator.report import report
from cloudcrest.compute.simulator.trace import Job, Mixture, made_nodes, read_jobs, read_nodes, workloads
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import GIB

TYPES = {each.id: each for each in known_types()}


def cpu_job(arrives: float, seconds: float, cpus: int = 8) -> Job:
    return Job(arrives, seconds, Demand(cpus * 1000, GIB))


def run(nodes: str, jobs: list[tuple[Job, Workload]], **options: object) -> Outcome:
    return Replay(made_nodes(nodes, TYPES), jobs, Options(step_seconds=1.0, **options)).run()  # type: ignore[arg-type]


def firm(number: int, job: Job, owner: str = "a", *, is_spot: bool = False) -> tuple[Job, Workload]:
    return job, Workload(f"job-{number}", job.demand, owner=(owner, "p"), is_spot=is_spot, since=job.arrives)


def test_traces_are_read_gzipped_or_not(tmp_path: Path) -> None:
    (tmp_path / "year.csv").write_text("arrival_time,length,cpus\n2.0,0.5,4\n0.5,1.0,1\n")
    assert read_jobs(tmp_path / "year.csv") == [
        Job(1800.0, 3600.0, Demand(1000, GIB)), Job(7200.0, 1800.0, Demand(4000, 4 * GIB))
    ]  # fmt: skip
    pods = (
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time\n"
        "p0,6000,1024,1,460,T4|P100,10,70\np1,1000,1024,0,0,,5,\n"
    )
    (tmp_path / "pods.csv.gz").write_bytes(gzip.compress(pods.encode()))
    (job,) = read_jobs(tmp_path / "pods.csv.gz")
    assert job == Job(10.0, 60.0, Demand(6000, GIB, 1, 460, frozenset(("T4", "P100"))))
    (tmp_path / "nodes.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\nn0,96000,1024,2,T4\n")
    (node,) = read_nodes(tmp_path / "nodes.csv")
    assert (node.accelerators, node.accelerator_type, node.memory_bytes) == (2, "T4", GIB)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput, match="no trace that is known"):
        read_jobs(tmp_path / "other.csv")
    with pytest.raises(InvalidInput, match="no columns"):
        read_nodes(tmp_path / "other.csv")


def test_nodes_are_made_from_a_few_words() -> None:
    nodes = made_nodes("2xnvidia-h100-80gb:8,1xcpu:64:256", TYPES)
    assert [node.accelerators for node in nodes] == [8, 8, 0]
    assert (nodes[0].cpu_milli, nodes[2].memory_bytes) == (128_000, 256 * GIB)
    for wrong in ("many", "2xunheard-of:8"):
        with pytest.raises(InvalidInput):
            made_nodes(wrong, TYPES)


def test_a_job_waits_for_another_and_runs_to_its_end() -> None:
    outcome = run("1xcpu:8:64", [firm(0, cpu_job(0, 100)), firm(1, cpu_job(10, 50)), firm(2, cpu_job(10, 5, cpus=9))])
    first, second = outcome.ended
    assert (first.waited, first.ran, second.ran) == (1.0, 100.0, 50.0)
    assert 90 <= second.waited <= 93
    assert outcome.never == {"the largest has 8 CPUs and 64 GiB": 1}
    assert outcome.never_cpu_milli_seconds == 9_000 * 5
    told = report(outcome, {})
    assert (told.never_jobs, round(told.never_jobs_percent, 1)) == (1, 33.3)
    assert told.never_cpu_percent == 100 * 45 / (45 + 8 * 150)
    assert told.never_accelerator_percent == 0


def test_spot_work_is_preempted_and_goes_on_from_its_checkpoint() -> None:
    jobs = [firm(0, cpu_job(0, 100), is_spot=True), firm(1, cpu_job(45, 10))]
    outcome = run("1xcpu:8:64", jobs, checkpoint_seconds=20.0)
    ended = {each.workload.id: each for each in outcome.ended}
    assert ended["job-0"].preemptions == 1
    assert 0 < ended["job-0"].repeated < 20.0
    assert ended["job-0"].ran == pytest.approx(100.0 + ended["job-0"].repeated)
    assert ended["job-1"].waited <= 2.0
    told = report(outcome, {"cpu": 0.01})
    assert (told.spot.preemptions, told.firm.preemptions) == (1, 0)
    assert told.cost == pytest.approx(0.01 * 8 * sum(each.ran for each in outcome.ended))


def test_what_was_borrowed_comes_back_to_who_is_guaranteed() -> None:
    quotas = (Quota(("a",), "cpu", 8_000), Quota(("b",), "cpu", 8_000))
    jobs = [firm(0, cpu_job(0, 500), "a"), firm(1, cpu_job(1, 500), "a"), firm(2, cpu_job(50, 10), "b")]
    ended = {each.workload.id: each for each in run("1xcpu:16:64", jobs, quotas=quotas).ended}
    assert ended["job-2"].waited <= 2.0
    assert (ended["job-0"].preemptions, ended["job-1"].preemptions) == (0, 1)


def test_what_was_given_out_is_counted_over_all_the_time_idle_or_not() -> None:
    outcome = run("2xcpu:8:64", [firm(0, cpu_job(0, 100)), firm(1, cpu_job(900, 100, cpus=4))])
    told = report(outcome, {})
    assert told.hours * 3600 == pytest.approx(1000, abs=3)
    assert told.allocated_cpu_percent == pytest.approx(100 * (800 + 400) / (16 * told.hours * 3600))


def test_the_same_replay_is_the_same_and_draws_a_picture(tmp_path: Path) -> None:
    jobs = [cpu_job(number * 7.0, 40.0 + number % 5, 1 + number % 4) for number in range(60)]
    nodes = made_nodes("2xcpu:8:64", TYPES)

    def once() -> Outcome:
        options = Options(step_seconds=5.0, quotas=equal_parts(nodes, 3))
        return Replay(nodes, workloads(jobs, Mixture(3, 0.4, seed=7)), options).run()

    first = once()
    assert first == once()
    told = report(first, {})
    assert told.jobs == 60
    assert 0 < told.allocated_cpu_percent <= 100
    assert 0 < told.fairness <= 1
    picture = svg(told)
    assert picture.startswith("<svg")
    assert picture.count("<polyline") == 3


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 300), st.floats(1, 200), st.integers(1, 9), st.sampled_from("ab"), st.booleans()),
        max_size=25,
    )
)
def test_every_job_ends_once_or_is_told_why_not(drawn: list[tuple[float, float, int, str, bool]]) -> None:
    drawn.sort()
    jobs = [firm(n, cpu_job(at, s, cpus), who, is_spot=spot) for n, (at, s, cpus, who, spot) in enumerate(drawn)]
    outcome = run("2xcpu:8:64", jobs, quotas=(Quota(("a",), "cpu", 8_000),), checkpoint_seconds=30.0)
    ends: defaultdict[str, int] = defaultdict(int)
    for each in outcome.ended:
        ends[each.workload.id] += 1
        seconds = next(job.seconds for job, workload in jobs if workload.id == each.workload.id)
        assert each.ran == pytest.approx(seconds + each.repeated)
    assert all(count == 1 for count in ends.values())
    assert len(outcome.ended) + sum(outcome.never.values()) == len(jobs)
    assert all(sample.cpu <= outcome.cpu_milli for sample in outcome.samples)
