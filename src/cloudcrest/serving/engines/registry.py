"""Which engines there are. A new one is a file beside this and a line here."""

from collections.abc import Callable

from cloudcrest.kernel.registry import Registry
from cloudcrest.serving.engines.api import Engine, EngineSettings


def _llamacpp(_: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine()


def _vllm(settings: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.vllm import VllmEngine

    return VllmEngine(settings.runtimes_folder)


def _upstream(settings: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.upstream import UpstreamEngine

    return UpstreamEngine(settings.secrets_path, settings.outbound_allowed)


def _simulated(_: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.simulated import SimulatedEngine

    return SimulatedEngine()


def _piper(settings: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.piper import PiperEngine

    return PiperEngine(settings.runtimes_folder)


def _moonshine(settings: EngineSettings) -> Engine:
    from cloudcrest.serving.engines.moonshine import MoonshineEngine

    return MoonshineEngine(settings.runtimes_folder)


ENGINES: Registry[Callable[[EngineSettings], Engine]] = Registry(
    "engine",
    {
        "llamacpp": _llamacpp,
        "vllm": _vllm,
        "upstream": _upstream,
        "simulated": _simulated,
        "piper": _piper,
        "moonshine": _moonshine,
    },
)


def create_engines(settings: EngineSettings) -> dict[str, Engine]:
    """Every engine, by name."""
    return {name: ENGINES[name](settings) for name in ENGINES.names()}
