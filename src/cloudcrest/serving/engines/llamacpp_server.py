"""One llama.cpp replica: `python -m cloudcrest.serving.engines.llamacpp_server '<json>'`, token in the environment.

The server's own threads do the work; the main thread waits for SIGTERM, and the lifeline ends the process at once.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.infra.lifeline import exit_with_lifeline
from cloudcrest.serving.engines.api import TOKEN_VARIABLE

_EXIT_CANNOT_LOAD = 3
_WARNINGS = 2
_IDLE_CONNECTIONS = 16
"""Of gateway workers beyond those that a slot is for: each keeps one, and the server spends a thread on it."""
_servers: list[object] = []


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """What the engine adapter asks for. `gpu_layers` -1: as many as fit."""

    model: str
    alias: str
    host: str
    port: int
    slots: int
    context_tokens: int
    threads: int
    task: str
    gpu_layers: int = -1
    prompt_cache_mib: int = 256
    flash_attention: bool = True


def server_parameters(arguments: Arguments, token: str) -> Any:  # xllamacpp has no type information
    """llama.cpp's parameters for one replica."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.model_alias = {arguments.alias}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.api_keys = [token]
    parameters.n_parallel = arguments.slots
    parameters.n_ctx = arguments.slots * arguments.context_tokens
    parameters.n_gpu_layers = arguments.gpu_layers
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    # One connection per running request, and room for health questions and each gateway worker's idle one beside them.
    parameters.n_threads_http = arguments.slots + 4 + _IDLE_CONNECTIONS
    parameters.cache_ram_mib = arguments.prompt_cache_mib
    if not arguments.flash_attention:
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.fit_params = False
    parameters.warmup = False
    parameters.use_jinja = True
    parameters.ui = False
    parameters.endpoint_metrics = parameters.endpoint_slots = parameters.endpoint_props = True
    parameters.verbosity = _WARNINGS
    if arguments.task in ("embedding", "rerank"):
        parameters.embedding = True
        # An input is embedded in one batch, so a batch must hold a whole slot's context; and pooling aborts unless the
        # slots divide it.
        batch = max(arguments.context_tokens, 512)
        parameters.n_batch = parameters.n_ubatch = -(-batch // arguments.slots) * arguments.slots
    if arguments.task == "rerank":
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return parameters


def main(argv: list[str]) -> int:
    """Serves until SIGTERM. Returns the exit code; prints one sentence when the model cannot be loaded."""
    exit_with_lifeline()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    arguments = msgspec.json.decode(argv[1], type=Arguments)
    if not Path(arguments.model).is_file():
        return _fail(f"there are no weights at {arguments.model}")
    import xllamacpp

    try:
        # The server lives as long as something refers to it.
        _servers.append(xllamacpp.Server(server_parameters(arguments, os.environ.pop(TOKEN_VARIABLE))))
    except RuntimeError:
        return _fail(f"llama.cpp could not load {Path(arguments.model).name}; the lines above say why")
    stopped.wait()
    # Whoever stops a replica has drained it before. Tearing the server down would wait for generations that are still
    # running, so the process just ends.
    os._exit(0)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201 - its standard error is the replica's log
    return _EXIT_CANNOT_LOAD


if __name__ == "__main__":
    sys.exit(main(sys.argv))
