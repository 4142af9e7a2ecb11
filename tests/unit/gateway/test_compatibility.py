"""docs/compatibility.md names every field that an endpoint takes, in that endpoint's section."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudcrest.gateway.sound.fields import SpeechBody, TranscriptionBody
from cloudcrest.gateway.validate import DECODERS

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"
_CODE = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"[a-z]\w*")
BODIES: dict[str, Any] = {
    **{endpoint: decoder.type for endpoint, decoder in DECODERS.items()},
    "/v1/audio/speech": SpeechBody,
    "/v1/audio/transcriptions": TranscriptionBody,
}


def fields_of(kind: msgspec.inspect.Type) -> set[str]:
    """The names of the fields of all structs in a type, as callers write them."""
    if isinstance(kind, msgspec.inspect.StructType):
        names = {field.encode_name for field in kind.fields} | ({kind.tag_field} if kind.tag_field else set())
        return names.union(*(fields_of(field.type) for field in kind.fields))
    if isinstance(kind, msgspec.inspect.UnionType):
        return set().union(*(fields_of(each) for each in kind.types))
    if isinstance(kind, msgspec.inspect.ListType):
        return fields_of(kind.item_type)
    return set()


def named_for(endpoint: str) -> set[str]:
    """What stands in backticks in the section that has an endpoint in its heading."""
    [section] = [part for part in DOCUMENT.read_text().split("\n## ") if f"{endpoint}`" in part.partition("\n")[0]]
    return {name for code in _CODE.findall(section) for name in _NAME.findall(code)}


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_field_is_named(endpoint: str) -> None:
    fields = fields_of(msgspec.inspect.type_info(BODIES[endpoint]))
    assert "model" in fields
    assert fields - named_for(endpoint) == set()
