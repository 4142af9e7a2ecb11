"""A cloud with TLS, another database, two gateway workers and no models: what its flags promise."""

import datetime
import json
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudcrest.infra.postgres import EmbeddedPostgres
from tests.support import databases
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until

ORIGIN = "https://app.example.com"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1's name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cloud.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def refused(cloud: Cloud) -> str:
    """What a start that is refused says."""
    done = subprocess.run(
        cloud.command(), env=cloud.variables(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.timeout(240)
def test_tls_another_database_and_no_models(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    databases.create_database(postgres, "own_database")
    url = postgres.url("own_database").replace("postgresql+psycopg", "postgresql")
    flags = ["--tls-cert", str(cert), "--tls-key", str(key), "--cors-origin", ORIGIN, "--no-default-models"]
    with new_cloud(flags=[*flags, "--database-url", url, "--gateway-workers", "2"]) as cloud:
        cloud.start()
        assert cloud.pid_of("gateway") != cloud.pid_of("gateway-1")
        assert cloud.base_url.startswith("https://127.0.0.1:")
        until(lambda: "No models are deployed yet" in cloud.output, "what `up` says once it is ready")
        assert not (cloud.data / "postgres").exists()
        trust = ssl.create_default_context(cafile=str(cert))
        trust.check_hostname = False
        headers = {"authorization": f"Bearer {cloud.operator_key}", "origin": ORIGIN}
        with httpx2.Client(base_url=cloud.base_url, headers=headers, verify=trust, trust_env=False) as client:
            deployments = client.get("/api/v1/deployments")
            assert deployments.json()["data"] == []
            assert deployments.headers["access-control-allow-origin"] == ORIGIN
            (region,) = client.get("/api/v1/regions").json()["data"]
            assert region["link"] == "connected"
        script = Path(sys.executable).with_name("cloudcrest")
        command = [str(script), "status", "--format", "json", "--data", str(cloud.data)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout)["answers"]
        assert cloud.stop() == 0
    databases.drop_database(postgres, "own_database")


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    with new_cloud(flags=["--database-url", "mysql://somewhere/db"]) as cloud:
        assert "is no PostgreSQL URL (write postgresql://" in refused(cloud)


def test_a_certificate_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    key.write_text("not a key")
    with new_cloud(flags=["--tls-cert", str(cert), "--tls-key", str(key), "--no-default-models"]) as cloud:
        said = refused(cloud)
    assert f"the TLS certificate {cert} cannot be used" in said
    assert "PEM" in said
