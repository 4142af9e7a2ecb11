"""Which paths speak another dialect. A new one is a file beside this and its paths here."""

from cloudcrest.gateway.dialects.api import Dialect

DIALECTS: dict[str, Dialect] = {}
