"""Jobs in a whole cloud, put where its control plane publishes them: what a region does with them is its own."""

import json
import time
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from cloudcrest.compute.jobs.api import JOB_KIND, JobDocument
from cloudcrest.infra.publication import CHANNEL
from tests.support.cloud import Cloud

_UPSERT = """
insert into published_documents (kind, id, revision, region, body)
values (%(kind)s, %(id)s, nextval('published_documents_revision'), 'local', %(body)s)
on conflict (kind, id) do update set revision = excluded.revision, body = excluded.body
"""


def publish(cloud: Cloud, document: JobDocument | None, job_id: str = "") -> None:
    """Publishes a job to the region, or (None) that it is wanted no longer."""
    url = json.loads((cloud.data / "run/settings/control.json").read_bytes())["database_url"]
    body = None if document is None else Jsonb(msgspec.to_builtins(document))
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(_UPSERT, {"kind": JOB_KIND, "id": document.id if document else job_id, "body": body})
        connection.execute(f"notify {CHANNEL}")


def job_of(job_id: str, organization_id: str, project_id: str, command: tuple[str, ...], **more: Any) -> JobDocument:
    """A job of a project."""
    made = JobDocument(
        id=job_id,
        organization_id=organization_id,
        project_id=project_id,
        region="local",
        name="test",
        command=command,
        created_at_unix_seconds=time.time(),
        cpu_milli=100,
        memory_bytes=100_000_000,
        grace_seconds=5.0,
    )
    return msgspec.structs.replace(made, **more)
