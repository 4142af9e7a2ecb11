"""The seeded models as data: every one parses, holds together, and can be fetched or says why not."""

import re

import pytest

from cloudcrest.catalog.records import Model
from cloudcrest.catalog.schemas import CreateModel
from cloudcrest.catalog.seed import read_seeds
from cloudcrest.catalog.service import check_model
from cloudcrest.catalog.sources.hubs import parse_hub_location

MODELS = read_seeds()
WITHOUT_WEIGHTS: set[str] = set()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_a_seed_is_what_an_operator_could_have_written(model: Model) -> None:
    check_model(model)
    fields = {name: getattr(model, name) for name in Model.__struct_fields__ if name != "artifacts"}
    CreateModel.model_validate(fields, from_attributes=True)
    assert model.homepage is not None
    assert bool(model.artifacts) is (model.id not in WITHOUT_WEIGHTS)
    assert (model.dimensions is not None) is (model.task == "embedding")
    if model.active_parameters is not None:
        assert model.parameters is not None
        assert model.active_parameters < model.parameters
    for artifact in model.artifacts:
        for file in artifact.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.size_bytes
        for source in artifact.sources:
            scheme, _, location = source.partition(":")
            if scheme in ("hf", "modelscope"):
                parse_hub_location(scheme, location)
            else:
                assert artifact.files, "only a hub lists hashes"


def test_ids_are_unique_and_lineage_leads_to_known_models_without_circles() -> None:
    by_id = {model.id: model for model in MODELS}
    assert len(by_id) == len(MODELS)
    for model in MODELS:
        seen: set[str] = set()
        line = [model.id]
        while line:
            current = line.pop()
            assert current not in seen, f"{model.id} comes from itself"
            seen.add(current)
            line += by_id[current].lineage()


def test_the_families_people_ask_for_are_there() -> None:
    families = {model.family for model in MODELS}
    assert families >= {"SmolLM2", "SmolLM3", "Qwen3", "Qwen3-Coder", "Qwen3-Embedding", "DeepSeek", "GLM", "Kimi"}
    assert families >= {"Llama", "Gemma", "Mistral", "Mixtral", "Ministral", "MiniLM"}


def test_the_models_to_start_with_have_their_hashes_and_a_wheel_to_come_from() -> None:
    by_id = {model.id: model for model in MODELS}
    for name in ("smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct", "all-minilm-l6-v2", "piper-en-us-joe-medium"):
        first = by_id[name].artifacts[0]
        assert first.files
        assert first.sources[0].startswith("hf:")
        assert first.sources[-1].startswith("pypi")
