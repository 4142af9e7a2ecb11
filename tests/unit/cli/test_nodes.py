"""`nodes` and `accelerators`: what they send and show."""

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Cli, FakeCloud

NODE: dict[str, Any] = {
    "id": "node_1",
    "node": "n1",
    "region": "local",
    "state": "ready",
    "reason": None,
    "zone": "a",
    "rack": "r1",
    "cpu_model": "Some CPU",
    "cpu_milli": 64_000,
    "cpu_allocated_milli": 8_500,
    "memory_bytes": 500_000_000_000,
    "memory_allocated_bytes": 64_000_000_000,
    "disk_bytes": 900_000_000_000,
    "disk_allocated_bytes": 50_000_000_000,
    "reserved_memory_bytes": 10**9,
    "reserved_cpu_milli": 0,
    "accelerators": {"type": "nvidia-h100-80gb", "count": 8, "allocated_milli": 1250},
    "other_accelerators": [{"type": "nvidia-t4-16gb", "count": 1}],
    "processes": 2,
    "labels": {"disk": "ssd"},
    "set_labels": {},
    "taints": ["experiments"],
    "power_watts": None,
    "created_at": "2026-01-01T00:00:00Z",
    "gone_since": None,
}
TYPE: dict[str, Any] = {
    "id": "nvidia-h100-80gb",
    "family": "nvidia",
    "name": "NVIDIA H100 SXM",
    "names": ["NVIDIA H100 80GB HBM3"],
    "memory_bytes": 80 * 2**30,
    "peak_tflops": {"bf16": 989.4},
    "bandwidth_bytes_per_second": 3_350_000_000_000,
    "interconnect": "NVLink 4",
    "interconnect_bytes_per_second": None,
    "power_watts": 700,
    "engines": ["vllm"],
    "dtypes": ["bf16"],
    "sources": ["data sheet"],
    "origin": "known",
    "prices": [{"currency": "USD", "per_second": "0.0008"}],
    "regions": ["local"],
    "counts": [{"region": "local", "total": 8, "allocated_milli": 1250}],
    "updated_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def nodes(cloud: FakeCloud) -> FakeCloud:
    gone = {**NODE, "id": "node_0", "state": "gone"}
    cloud.answer("GET", "/api/v1/nodes", {"data": [NODE, gone], "next_cursor": None})
    cloud.answer("GET", "/api/v1/nodes/node_1", NODE)
    cloud.answer("PATCH", "/api/v1/nodes/node_1", NODE)
    return cloud


def test_nodes_are_listed_with_what_is_taken(cli: Cli, nodes: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("nodes", "list", "--region", "local") == 0
    shown = capsys.readouterr().out
    assert "1.25/8 × nvidia-h100-80gb" in shown
    assert "8.5/64" in shown
    assert "64.0 GB/500.0 GB" in shown
    assert nodes.requests[0].url.params["region"] == "local"
    assert cli("nodes", "show", "n1", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == NODE


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("label", "n1", "team=search", "disk-", "a=b=c"), {"labels": {"team": "search", "disk": None, "a": "b=c"}}),
        (("taint", "node_1", "quiet", "experiments-"), {"taints": ["quiet"]}),
        (("taint", "n1", "experiments", "quiet"), {"taints": ["experiments", "quiet"]}),
        (("cordon", "n1"), {"is_cordoned": True}),
        (("uncordon", "n1"), {"is_cordoned": False, "is_draining": False}),
        (("drain", "n1"), {"is_draining": True}),
        (
            ("update", "n1", "--zone", "b", "--rack", "", "--reserved-memory", "4GiB", "--reserved-cores", "1.5"),
            {"zone": "b", "rack": None, "reserved_memory_bytes": 4 * 2**30, "reserved_cpu_milli": 1500},
        ),
    ],
)
def test_a_change_says_only_what_changes(cli: Cli, nodes: FakeCloud, words: tuple[str, ...], body: Any) -> None:
    assert cli("nodes", *words) == 0
    assert nodes.sent("PATCH", "/api/v1/nodes/node_1") == body


@pytest.mark.parametrize(
    "words", [("label", "n1"), ("label", "n1", "team"), ("taint", "n1"), ("update", "n1"), ("rack", "r1")]
)
def test_what_says_nothing_is_wrong_usage(cli: Cli, nodes: FakeCloud, words: tuple[str, ...]) -> None:
    assert cli("nodes", *words) == 2
    assert not [request for request in nodes.requests if request.method != "GET"]


def test_an_unknown_node_is_said_so(cli: Cli, nodes: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("nodes", "cordon", "n9") == 1
    assert "there is no node 'n9'" in capsys.readouterr().err


def test_a_gone_node_is_forgotten(cli: Cli, nodes: FakeCloud) -> None:
    nodes.answer("GET", "/api/v1/nodes/node_0", {**NODE, "id": "node_0"})
    nodes.answer("DELETE", "/api/v1/nodes/node_0", b"", 204)
    assert cli("nodes", "forget", "node_0") == 0


def test_a_racks_limit_is_made_changed_and_taken_away(cli: Cli, cloud: FakeCloud) -> None:
    rack = {"id": "rack_1", "region": "local", "zone": "a", "name": "r1", "power_limit_watts": 40_000}
    cloud.answer("GET", "/api/v1/racks", {"data": [], "next_cursor": None})
    cloud.answer("GET", "/api/v1/racks", {"data": [rack], "next_cursor": None})
    cloud.answer("POST", "/api/v1/racks", rack, 201)
    cloud.answer("PATCH", "/api/v1/racks/rack_1", rack)
    cloud.answer("DELETE", "/api/v1/racks/rack_1", b"", 204)
    limit = ("--zone", "a", "--power-limit-watts", "40000")
    assert cli("nodes", "rack", "r1", *limit) == 0
    assert cloud.sent("POST", "/api/v1/racks") == {
        "region": "local",
        "zone": "a",
        "name": "r1",
        "power_limit_watts": 40_000,
    }
    assert cli("nodes", "rack", "r1", *limit) == 0
    assert cloud.sent("PATCH", "/api/v1/racks/rack_1") == {"power_limit_watts": 40_000}
    assert cli("nodes", "rack", "r1", "--zone", "a", "--no-limit") == 0
    assert cloud.requests[-1].method == "DELETE"
    assert cli("nodes", "racks") == 0
    assert cli("nodes", "rack", "r2", "--no-limit") == 1


def test_accelerators_have_prices_and_counts(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    rare = {**TYPE, "id": "rare", "prices": [], "regions": [], "counts": None}
    cloud.answer("GET", "/api/v1/accelerators", {"data": [TYPE, rare], "next_cursor": None})
    cloud.answer("GET", "/api/v1/accelerators/rare", rare)
    assert cli("accelerators", "list") == 0
    shown = capsys.readouterr().out
    assert "0.0008 USD" in shown
    assert "local: 1.25/8" in shown
    assert "3350" in shown
    assert "rare" in shown
    assert cli("accelerators", "list", "--available") == 0
    assert "rare" not in capsys.readouterr().out
    assert cli("accelerators", "show", "rare") == 0
    assert "NVLink 4" in capsys.readouterr().out
