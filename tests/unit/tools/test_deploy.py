"""The manifests in deploy/ start Cloudcrest with flags that it has, and fit each other."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudcrest.bootstrap.arguments import up_settings
from cloudcrest.bootstrap.join import join_settings
from cloudcrest.compute.fabric.ray.command import checked_name, label_of

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))
_VARIABLES = {"$(POD_IP)": "10.0.0.7", "$(FQ_RAY_IP)": "cloudcrest-head-svc.default.svc.cluster.local"}


def documents(kind: str) -> list[dict[str, Any]]:
    found = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
    return [document for document in found if document["kind"] == kind]


def data_folder() -> str:
    """As the image sets it."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("ENV CLOUDCREST_DATA="))


def words(container: dict[str, Any], token: Path) -> list[str]:
    """A container's command line, as Kubernetes would run it; the token's file is one that is here."""
    line = [*container["command"], *container["args"]]
    for name, value in {**_VARIABLES, "/etc/cloudcrest/token": str(token)}.items():
        line = [word.replace(name, value) for word in line]
    return line


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("6" * 64)
    return path


def test_the_head_is_up_and_workers_join_it_with_flags_that_there_are(token: Path) -> None:
    (cluster,) = documents("RayCluster")
    assert cluster["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    environment = {"CLOUDCREST_DATA": data_folder()}
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    program, role, *flags = words(head, token)
    assert (program, role) == ("cloudcrest", "up")
    settings = up_settings(flags, environment)
    assert (settings.fabric, settings.node_address, settings.node_token_file) == ("ray", "10.0.0.7", token)
    for group in cluster["spec"]["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        program, noun, verb, *flags = words(worker, token)
        assert (program, noun, verb) == ("cloudcrest", "node", "join")
        joining = join_settings(flags, environment)
        assert (joining.head, joining.data, joining.token_file) == (
            "cloudcrest-head-svc.default.svc.cluster.local:6379",
            settings.data,
            token,
        )
        assert [label_of(label) for label in joining.labels]
        assert checked_name(joining.name)
        assert worker["image"] == head["image"]


def test_every_pod_mounts_the_secret_and_its_data() -> None:
    (cluster,) = documents("RayCluster")
    (claim,) = documents("PersistentVolumeClaim")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"data": "/data", "token": "/etc/cloudcrest"}
        assert {volume["name"] for volume in pod["volumes"]} == {*mounts}
        secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert secrets == ["cloudcrest-nodes"]
    # Never the mount itself: what a file system has in it is no data folder of ours.
    assert Path(data_folder()).parent == Path("/data")
    probe = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert f'"{data_folder()}/nodes/$(hostname)/run/agent.sock"' in probe["exec"]["command"][-1]
    data = cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"][0]
    assert data["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_image_has_ray_of_the_version_that_the_cluster_names() -> None:
    (cluster,) = documents("RayCluster")
    lock = (ROOT / "requirements" / "ray.lock").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']} " in lock
    assert "requirements/ray.lock" in (ROOT / "deploy" / "Dockerfile").read_text()
