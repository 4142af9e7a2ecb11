"""Holds answers against Open Responses' schemas, in an environment that has `openresponses-types` alone.

Its argument is a file of JSON: `{"responses": [...], "events": [...]}`. It prints what does not fit.
"""

import json
import sys
from pathlib import Path
from typing import Any

import openresponses_types
from pydantic import BaseModel, ValidationError

_OPENAI_ALONE = ("response.reasoning_text.delta", "response.reasoning_text.done")
"""OpenAI's names of what Open Responses calls `response.reasoning.delta` and `.done`."""


def main(path: str) -> None:
    """Prints `{"checked": …, "errors": […]}`."""
    told = json.loads(Path(path).read_text())
    resource: type[BaseModel] = openresponses_types.ResponseResource
    events = event_models()
    errors = [error for document in told["responses"] for error in misfits(resource, document)]
    kinds = set()
    for event in told["events"]:
        kind = event["type"]
        if kind not in _OPENAI_ALONE:
            kinds.add(kind)
            errors += misfits(events[kind], event) if kind in events else [f"{kind}: no such event"]
    print(json.dumps({"responses": len(told["responses"]), "kinds": sorted(kinds), "errors": errors}))


def event_models() -> dict[str, type[BaseModel]]:
    """The models of streams' events, by their type."""
    models = {}
    for name, model in vars(openresponses_types).items():
        if name.endswith("StreamingEvent") and "type" in model.model_fields:
            kind = model.model_fields["type"].annotation
            models[next(iter(kind)).value if hasattr(kind, "__members__") else kind.__args__[0]] = model
    return models


def misfits(model: type[BaseModel], document: dict[str, Any]) -> list[str]:
    """What of a document does not fit, `path: why`."""
    try:
        model.model_validate(document)
    except ValidationError as error:
        name = document.get("type") or document["object"]
        return [f"{name}.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []


if __name__ == "__main__":
    main(sys.argv[1])
