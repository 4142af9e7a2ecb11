"""How a place in a model hub is written: `owner/repo@revision!folder/`, revision and folder optional."""

import re
from dataclasses import dataclass
from urllib.parse import quote

from cloudcrest.kernel.errors import InvalidInput

_LOCATION = re.compile(
    r"(?P<repository>[\w.-]{1,96}/[\w.-]{1,128})"
    r"(?:@(?P<revision>[\w.-][\w./-]{0,127}))?"
    r"(?:!(?P<prefix>[\w./ -]{0,256}))?"
)


@dataclass(frozen=True)
class HubLocation:
    """`prefix` is the folder within the repository that an artifact's paths are relative to, with its slash."""

    repository: str
    revision: str | None
    prefix: str = ""

    def path_of(self, path: str) -> str:
        """An artifact's file as the path part of a URL."""
        return quote(self.prefix + path)

    def at(self, revision: str) -> str:
        """The same place at a fixed revision, as it is written."""
        return f"{self.repository}@{revision}" + (f"!{self.prefix}" if self.prefix else "")


def parse_hub_location(scheme: str, location: str) -> HubLocation:
    """Raises `InvalidInput` when it is not `owner/repo[@revision][!folder/]`."""
    match = _LOCATION.fullmatch(location)
    if match is None or ".." in location:
        raise InvalidInput(
            f"'{scheme}:{location}' is no place in a model hub",
            hint=f"write {scheme}:owner/repo@revision",
            param="sources",
        )
    prefix = match["prefix"] or ""
    return HubLocation(
        match["repository"], match["revision"], prefix if prefix.endswith("/") or not prefix else prefix + "/"
    )
