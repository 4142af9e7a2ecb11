"""Options that every command takes: where the cloud is, who calls, and how results are printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

Format = Literal["table", "json", "csv"]

_GROUP = Group("Connection and output", sort_key=99)


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True)
class Options:
    """Taken from the flags; where a flag is missing, from the environment, a profile, then the data folder."""

    format: Annotated[Format, Parameter(help="How results are printed.", env_var="CLOUDCREST_FORMAT")] = "table"
    url: Annotated[str | None, Parameter(help="Address of the cloud, as in http://127.0.0.1:8080.")] = None
    key: Annotated[str | None, Parameter(help="API key to call with.")] = None
    profile: Annotated[
        str | None, Parameter(help="A login kept by `cloudcrest login`.", env_var="CLOUDCREST_PROFILE")
    ] = None
    data: Annotated[
        Path | None, Parameter(help="Data folder of a cloud on this machine.", env_var="CLOUDCREST_DATA")
    ] = None


DEFAULTS = Options()
