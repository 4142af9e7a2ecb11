"""Documents name what exists: links lead somewhere, files that are named are there, settings of `up` are told."""

import re
from pathlib import Path

import msgspec
import pytest

from cloudcrest.bootstrap.settings import UpSettings

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "src" / "cloudcrest"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *PACKAGE.rglob("README.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_FILE = re.compile(r"`((?:[a-z_0-9]+/)+[a-z_0-9*]+\.(?:py|md|toml|json))`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text()
    places = (ROOT, PACKAGE, document.parent)
    missing = [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    files = [name for name in _FILE.findall(text) if "/out/" not in name]
    missing += [name for name in files if not any(list(place.glob(name)) for place in places)]
    assert not missing


def test_every_setting_of_up_is_told() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    names = [f"CLOUDCREST_{field.name.upper()}" for field in msgspec.structs.fields(UpSettings)]
    assert [name for name in names if name not in text] == []
