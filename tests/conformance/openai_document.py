"""OpenAI's API as an OpenAPI document, made of the types of its Python package: no package carries the document itself.

The package is generated from OpenAI's description, so its parameters and its models are what OpenAI takes and answers.
What a cloud has no other way to know is put in: the names of its models, and ids of what it has.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openai.types import Batch, CreateEmbeddingResponse, FileDeleted, FileObject, Model, ModerationCreateResponse
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletion
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.responses import Response
from pydantic import BaseModel, TypeAdapter

Schema = dict[str, Any]
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


_WORDS: Schema = {"type": "string", "minLength": 1, "maxLength": 100}
_WORDS_OR_LIST: Schema = {"anyOf": [_WORDS, {"type": "array", "items": _WORDS, "minItems": 1, "maxItems": 4}]}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": _WORDS},
    "additionalProperties": False,
}
_MESSAGES: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 4}
_PENALTY: Schema = {"type": "number", "minimum": -2, "maximum": 2}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 100}
SERVED: dict[str, Schema] = {
    "conversation": {"type": "null"},
    "completion_window": {"const": "24h"},
    "encoding_format": {"enum": ["float", "base64"]},
    "endpoint": {"const": "/v1/chat/completions"},
    "frequency_penalty": _PENALTY,
    "items": {**_MESSAGES, "maxItems": 3},
    "limit": _LIMIT,
    "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": 50},
    "max_output_tokens": {"type": "integer", "minimum": 1, "maximum": 50},
    "messages": _MESSAGES,
    "metadata": {"type": "object", "additionalProperties": _WORDS, "maxProperties": 3},
    "n": {"type": "integer", "minimum": 1, "maximum": 3},
    "order": {"enum": ["asc", "desc"]},
    "parallel_tool_calls": {"type": "boolean"},
    "presence_penalty": _PENALTY,
    "prompt": _WORDS_OR_LIST,
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "stop": _WORDS_OR_LIST,
    "store": {"const": False},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0.01, "maximum": 1},
    "truncation": {"enum": ["auto", "disabled"]},
    "user": _WORDS,
}
"""Fields within the bounds that OpenAI tells in words alone, so that what is made up is answered."""


@dataclass(frozen=True)
class Operation:
    """One of OpenAI's operations.

    `parameters`: a TypedDict below openai.types, `module.Name`, of a POST's body or of a GET's query. `answers`:
    the model of a 200, in a list where `is_list`. `known`: which ids fill the path.
    """

    method: str
    path: str
    answers: type[BaseModel] | None
    parameters: str = ""
    is_list: bool = False
    known: str = ""


OPERATIONS = (
    Operation(
        "post", "/chat/completions", ChatCompletion, "chat.completion_create_params.CompletionCreateParamsNonStreaming"
    ),
    Operation("post", "/completions", TextCompletion, "completion_create_params.CompletionCreateParamsNonStreaming"),
    Operation("post", "/embeddings", CreateEmbeddingResponse, "embedding_create_params.EmbeddingCreateParams"),
    Operation("post", "/moderations", ModerationCreateResponse, "moderation_create_params.ModerationCreateParams"),
    Operation("get", "/models", Model, is_list=True),
    Operation("get", "/models/{id}", Model, known="models"),
    Operation("post", "/files", FileObject),
    Operation("get", "/files", FileObject, "file_list_params.FileListParams", is_list=True),
    Operation("get", "/files/{id}", FileObject, known="files"),
    Operation("get", "/files/{id}/content", None, known="files"),
    Operation("delete", "/files/{id}", FileDeleted, known="gone"),
    Operation("post", "/batches", Batch, "batch_create_params.BatchCreateParams"),
    Operation("get", "/batches", Batch, "batch_list_params.BatchListParams", is_list=True),
    Operation("get", "/batches/{id}", Batch, known="batches"),
    Operation("post", "/batches/{id}/cancel", Batch, known="batches"),
    Operation("post", "/responses", Response, "responses.response_create_params.ResponseCreateParamsNonStreaming"),
    Operation("get", "/responses/{id}", Response, known="responses"),
    Operation("post", "/responses/{id}/cancel", Response, known="gone"),
    Operation("delete", "/responses/{id}", None, known="gone"),
    Operation(
        "get",
        "/responses/{id}/input_items",
        None,
        "responses.input_item_list_params.InputItemListParams",
        known="responses",
    ),
    Operation(
        "post", "/conversations", Conversation, "conversations.conversation_create_params.ConversationCreateParams"
    ),
    Operation("get", "/conversations/{id}", Conversation, known="conversations"),
    Operation(
        "post",
        "/conversations/{id}",
        Conversation,
        "conversations.conversation_update_params.ConversationUpdateParams",
        known="conversations",
    ),
    Operation("delete", "/conversations/{id}", ConversationDeletedResource, known="gone"),
    Operation(
        "get", "/conversations/{id}/items", None, "conversations.item_list_params.ItemListParams", known="conversations"
    ),
    Operation(
        "post",
        "/conversations/{id}/items",
        None,
        "conversations.item_create_params.ItemCreateParams",
        known="conversations",
    ),
)


def document_of(
    base_url: str, models: Mapping[str, str], known: Mapping[str, str], *, is_served: bool = False
) -> Schema:
    """The document. `models`: the cloud's, by what is asked of them, a path or ""; `known`: an id of each kind of thing
    that it has. `is_served`: only what is answered.
    """
    schemas: Schema = {}
    paths: Schema = {}
    for number, operation in enumerate(OPERATIONS):
        made = _operation(operation, f"o{number}", schemas, models, known, is_served=is_served)
        paths.setdefault(f"/v1{operation.path}", {})[operation.method] = made
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenAI's API", "version": "1"},
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(
    operation: Operation,
    prefix: str,
    schemas: Schema,
    models: Mapping[str, str],
    known: Mapping[str, str],
    *,
    is_served: bool,
) -> Schema:
    made: Schema = {"parameters": [], "responses": _answers(operation, prefix, schemas)}
    if operation.known:
        ids = [*models.values()] if operation.known == "models" else [known.get(operation.known, "none")]
        schema: Schema = {"enum": ids} if is_served else {"type": "string", "minLength": 1}
        made["parameters"].append({"name": "id", "in": "path", "required": True, "schema": schema})
    if operation.path == "/files" and operation.method == "post":
        form = {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": [*_PURPOSES]}}
        schema = {"type": "object", "required": ["file", "purpose"], "properties": form}
        made["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    elif operation.parameters:
        schema = _schema(_type_of(operation.parameters), f"{prefix}p", schemas)
        model = models.get(operation.path, models[""])
        _fill_in(schema, model, known, is_served=is_served)
        if operation.method == "post":
            made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        else:
            made["parameters"] += [
                {"name": name, "in": "query", "schema": value}
                for name, value in schema["properties"].items()
                if value.get("type") in ("string", "integer")
            ]
    return made


def _answers(operation: Operation, prefix: str, schemas: Schema) -> Schema:
    schema: Schema = {}
    if operation.answers is not None:
        schema = _schema(operation.answers, f"{prefix}a", schemas)
        _widen(schema, schemas.get(f"{prefix}a.Embedding", {}))
    if operation.is_list:
        properties = {"object": {"const": "list"}, "data": {"type": "array", "items": schema}}
        schema = {"type": "object", "required": ["object", "data"], "properties": properties}
    kind = "*/*" if operation.path.endswith("/content") else "application/json"
    return {
        "200": {"description": "as asked", "content": {kind: {"schema": schema}}},
        "4XX": {"description": "refused", "content": {"application/json": {"schema": ERROR}}},
    }


def _widen(*made: Schema) -> None:
    """What OpenAI answers and its package's models leave out: vectors as base64, files that are uploaded for evals."""
    for schema in made:
        properties = schema.get("properties", {})
        if "embedding" in properties:
            properties["embedding"] = {"anyOf": [properties["embedding"], {"type": "string"}]}
        if "assistants" in properties.get("purpose", {}).get("enum", ()):
            properties["purpose"]["enum"].append("evals")


def _type_of(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"openai.types.{module}"), attribute)


def _schema(of: Any, prefix: str, schemas: Schema) -> Schema:
    """The schema of a type, what it refers to put beside it."""
    made = TypeAdapter(of).json_schema(ref_template=f"#/components/schemas/{prefix}.{{model}}")
    for name, referred in made.pop("$defs", {}).items():
        schemas[f"{prefix}.{name}"] = referred
    if "$ref" in made:
        return dict(schemas[made["$ref"].rpartition("/")[2]])
    return made


def _fill_in(schema: Schema, model: str, known: Mapping[str, str], *, is_served: bool) -> None:
    properties = schema["properties"]
    given: dict[str, Schema] = {"model": {"const": model}, "input_file_id": {"const": known["files"]}}
    if is_served:
        given |= {**SERVED, "input": {"anyOf": [_WORDS_OR_LIST["anyOf"][0], *_inputs(properties)]}}
        if "instructions" in properties:
            del given["prompt"]  # of a response, a template's name
        schema["properties"] = {name: given[name] for name in properties if name in given}
        schema["additionalProperties"] = False
        schema["required"] = [*{*schema.get("required", ()), *({"model", "input"} & schema["properties"].keys())}]
    else:
        properties.update({name: given[name] for name in given if name in properties})


def _inputs(properties: Schema) -> list[Schema]:
    """What `input` may be beside a text: messages of a response, texts else."""
    return [_MESSAGES if "instructions" in properties else _WORDS_OR_LIST["anyOf"][1]]
