"""Nodes and accelerators of a running cloud, through its public API and the command line."""

import httpx2

from tests.acceptance.conftest import Cli
from tests.acceptance.tenants import Tenant, answered
from tests.support.cloud import Cloud
from tests.support.waiting import until


def test_an_operator_says_where_a_node_stands(cloud: Cloud, cli: Cli, operator: httpx2.Client, anyone: Tenant) -> None:
    (node,) = until(lambda: answered(operator.get("/api/v1/nodes"))["data"], "the region has told of its node")
    assert (node["node"], node["state"], node["cpu_milli"] >= 1000) == ("local", "ready", True)
    key = ("--key", cloud.operator_key)
    try:
        assert cli("nodes", "label", "local", "shelf=top", *key).code == 0
        assert cli("nodes", "update", "local", "--zone", "cellar", *key).code == 0
        shown = cli("nodes", "show", "local", "--format", "json", *key).json()
        assert (shown["zone"], shown["labels"]["shelf"]) == ("cellar", "top")
        # Who wants to run something somewhere sees the zones there are, and nothing of nodes.
        assert answered(anyone.http.get("/api/v1/regions/local"))["zones"] == ["cellar"]
        assert anyone.http.get("/api/v1/nodes").status_code == 403
        assert cli("nodes", "list", "--key", anyone.management_key()).code == 1
    finally:
        assert cli("nodes", "label", "local", "shelf-", *key).code == 0
        assert cli("nodes", "update", "local", "--zone", "", *key).code == 0
    assert cli("nodes", "show", "local", "--format", "json", *key).json()["set_labels"] == {}


def test_everyone_sees_accelerators_and_operators_how_many(cloud: Cloud, cli: Cli, anyone: Tenant) -> None:
    tenants = {each["id"]: each for each in answered(anyone.http.get("/api/v1/accelerators"))["data"]}
    assert tenants["nvidia-h100-80gb"]["counts"] is None
    shown = cli("accelerators", "show", "nvidia-h100-80gb", "--format", "json", "--key", cloud.operator_key).json()
    assert (shown["counts"], shown["peak_tflops"]["bf16"]) == ([], 989.4)
