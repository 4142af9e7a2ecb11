"""Other gateways, each in a virtual environment of its own under bench/out. One that does not install is left out."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from bench.gateway.machine import GATEWAY_CORE, free_port, pinned, running
from bench.gateway.stage import MODEL, Target, first_answer

LITELLM_KEY = "sk-bench-litellm"
INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Peer:
    """How to install and start one. `argv` gets its environment's bin folder, a scratch folder, its port, replicas'."""

    name: str
    packages: tuple[str, ...]
    argv: Callable[[Path, Path, int, Sequence[int]], list[str]]
    key: str = "bench"


def _litellm(binaries: Path, scratch: Path, port: int, replica_ports: Sequence[int]) -> list[str]:
    # Prices are set, or it looks for them with each request; bytecode is compiled, see `start`.
    model = """
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{port}/v1", api_key: bench,
                      input_cost_per_token: 0.000001, output_cost_per_token: 0.000002}}
    model_info: {{mode: chat}}"""
    models = "".join(model.format(model=MODEL, port=replica) for replica in replica_ports)
    settings = f"model_list:{models}\ngeneral_settings: {{master_key: {LITELLM_KEY}}}\n"
    (scratch / "litellm.yaml").write_text(settings + "litellm_settings: {drop_params: true, num_retries: 0}\n")
    return [
        str(binaries / "litellm"),
        "--config",
        str(scratch / "litellm.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]


def _vllm_router(binaries: Path, _: Path, port: int, replica_ports: Sequence[int]) -> list[str]:
    return [str(binaries / "vllm-router"), *_router_options(port, replica_ports)]


def _sglang_router(binaries: Path, _: Path, port: int, replica_ports: Sequence[int]) -> list[str]:
    return [str(binaries / "python"), "-m", "sglang_router.launch_router", *_router_options(port, replica_ports)]


def _router_options(port: int, replica_ports: Sequence[int]) -> list[str]:
    """Both have the same; without a port of their own for metrics they would meet on a fixed one."""
    own = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    return [*own, "--policy", "round_robin", "--worker-urls", *(f"http://127.0.0.1:{port}" for port in replica_ports)]


PEERS = (
    Peer("vllm-router", ("vllm-router",), _vllm_router),
    Peer("sglang-router", ("sglang-router",), _sglang_router),
    Peer("litellm", ("litellm[proxy]", "opentelemetry-api", "opentelemetry-sdk"), _litellm, LITELLM_KEY),
)


def installed(peer: Peer, folder: Path) -> str | None:
    """Installs a peer where it is not; None when it is there, else why it is not."""
    marker = folder / "installed"
    if marker.exists():
        return None
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", *peer.packages],
    )
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"its installation took over {INSTALL_SECONDS} s"
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
            return f"it does not install: {lines[-1]}"
    marker.touch()
    return None


def started(peer: Peer, folder: Path, scratch: Path, replica_ports: Sequence[int]) -> AbstractContextManager[Target]:
    """A running peer."""
    return _started(peer, folder, scratch, replica_ports)


@contextmanager
def _started(peer: Peer, folder: Path, scratch: Path, replica_ports: Sequence[int]) -> Iterator[Target]:
    scratch.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = pinned(GATEWAY_CORE, *peer.argv(folder / "bin", scratch, port, replica_ports))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "LITELLM_LOG": "ERROR"}
    environment.pop("PYTHONPATH", None)
    began = monotonic()
    with running(argv, scratch / "log", environment) as pid:
        yield Target(peer.name, port, pid, first_answer(peer.name, port, began, key=peer.key), key=peer.key)
