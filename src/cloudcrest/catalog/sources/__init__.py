"""Where weights come from: one file per scheme, and the registry of them."""

from cloudcrest.catalog.sources import file, hf, modelscope, pypi, s3, upstream
from cloudcrest.catalog.sources.base import SourceCreator
from cloudcrest.kernel.registry import Registry

SOURCES: Registry[SourceCreator] = Registry(
    "artifact source",
    {
        "file": file.create,
        "hf": hf.create,
        "modelscope": modelscope.create,
        "pypi": pypi.create_whole,
        "pypi-parts": pypi.create_parts,
        "s3": s3.create,
        "upstream": upstream.create,
    },
)
