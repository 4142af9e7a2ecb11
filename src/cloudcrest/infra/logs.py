"""Structured logs: structlog everywhere, the libraries' own logging through it, secrets masked on the way out."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

MASK = "[redacted]"
_SECRET_NAMES = re.compile(
    r"(^|_)(authorization|password|passwd|secret|cookie|api_?key|master_key|private_key|csrf|token)$", re.IGNORECASE
)
_SECRET_VALUES = re.compile(
    r"(?P<key>\bsk-[A-Za-z0-9_\-]{8,})|(?P<scheme>\b(?:Bearer|Basic)\s+)[A-Za-z0-9_\-.~+/=]{8,}"
    r"|(?P<url>\b[a-z][a-z0-9+.\-]*://[^/\s:@]*:)[^/\s@]+(?=@)",
    re.IGNORECASE,
)
_MAX_DEPTH = 6


def configure_logs(process: str, *, json: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets up logging for this process: one line an event on stderr (or `stream`), JSON or for people to read."""
    out = stream or sys.stderr

    def add_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx2", "httpcore2", "procrastinate", "alembic", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks values under secret names, and keys, credentials and URL passwords wherever they stand."""
    for name, value in event.items():
        event[name] = _masked(name, value, 0)
    return event


def _masked(name: str, value: Any, depth: int) -> Any:
    if value is not None and _SECRET_NAMES.search(name):
        return MASK
    if isinstance(value, str):
        return _SECRET_VALUES.sub(_mask_match, value)
    if depth >= _MAX_DEPTH:
        return value if isinstance(value, (int, float, bool)) or value is None else "…"
    if isinstance(value, dict):
        return {key: _masked(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked("", item, depth + 1) for item in value]
    return value


def _mask_match(match: re.Match[str]) -> str:
    return f"{match['scheme'] or match['url'] or ''}{MASK}"
