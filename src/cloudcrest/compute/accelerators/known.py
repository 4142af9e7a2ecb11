"""The types of accelerators that Cloudcrest knows: known.toml, with where each figure is from."""

import tomllib
from importlib import resources

import msgspec

from cloudcrest.compute.api import AcceleratorType

_FILE = "known.toml"


def known_types() -> list[AcceleratorType]:
    """Every known type, checked for its shape. Raises `msgspec.ValidationError` naming what is wrong."""
    text = (resources.files("cloudcrest.compute.accelerators") / _FILE).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["types"], list[AcceleratorType])
