"""What a job may ask for: nothing in it reaches past the job."""

from typing import Any

import pytest
from pydantic import ValidationError

from cloudcrest.compute.jobs.schemas import CreateJob


def _job(**more: Any) -> CreateJob:
    return CreateJob.model_validate({"project_id": "proj_1", "command": ["true"], **more})


@pytest.mark.parametrize("image", ["-h", "--privileged", ":a", "/a"])
def test_an_image_is_no_option(image: str) -> None:
    with pytest.raises(ValidationError):
        _job(image=image)
    assert _job(image="ghcr.io/a/b:1").image == "ghcr.io/a/b:1"


@pytest.mark.parametrize(
    "targets", [["/data", "/data/a"], ["/checkpoints/a"], ["/checkpoints"], ["/work"], ["/work/a"], ["/data:U"]]
)
def test_volumes_are_beside_each_other_and_beside_the_jobs_own_folders(targets: list[str]) -> None:
    with pytest.raises(ValidationError):
        _job(volumes=[{"name": f"v{number}", "target": target} for number, target in enumerate(targets)])
    apart = _job(volumes=[{"name": "a", "target": "/data/a"}, {"name": "b", "target": "/data/ab"}])
    assert len(apart.volumes) == 2
