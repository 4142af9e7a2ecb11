"""The gateway's own pages: what this is, whether it lives and is ready, its metrics, and the list of models."""

import hmac
import ipaddress
from html import escape
from typing import Any

import msgspec

from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.identity.api import KeyDocument

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Cloudcrest</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}
pre{{background:#f2f2f2;padding:1rem;overflow:auto}}td{{padding-right:1rem}}</style>
<h1>Cloudcrest</h1>
<p>This is an AI cloud. Clients reach its models, by name and with an API key, at these base URLs:</p>
<table>
<tr><td>OpenAI</td><td><code>{base}/v1</code></td></tr>
<tr><td>Anthropic</td><td><code>{base}</code></td></tr>
<tr><td>DashScope</td><td><code>{base}/api/v1</code>, <code>{base}/compatible-mode/v1</code></td></tr>
</table>
<p>Its management API is described at <a href="{docs}">{docs}</a>.</p>
<pre>curl {base}/v1/chat/completions -H "Authorization: Bearer $CLOUDCREST_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "smollm2-135m-instruct", "messages": [{{"role": "user", "content": "Hello"}}]}}'</pre>
</html>
"""


def home(*, accepts_html: bool, base_url: str, docs_url: str) -> tuple[bytes, bytes]:
    """(content type, body) of `GET /`: a small page for browsers, JSON for everyone else."""
    if accepts_html:
        page = _PAGE.format(base=escape(base_url), docs=escape(docs_url))
        return b"text/html; charset=utf-8", page.encode()
    about = {"name": "Cloudcrest", "inference": "/v1", "management": "/api/v1", "docs": docs_url, "health": "/healthz"}
    return b"application/json", msgspec.json.encode(about)


def model_object(snapshot: Snapshot, model: str) -> dict[str, Any]:
    """One model, in OpenAI's shape, and what it is for: a client that looks for a chat model need not guess."""
    document = snapshot.routes[model].document
    created = document.created_at_unix_seconds
    return {"id": model, "object": "model", "created": created, "owned_by": "cloudcrest", "task": document.task}


def model_list(snapshot: Snapshot, key: KeyDocument, _query: bytes = b"") -> bytes:
    """The models this key may use, all of them."""
    data = [model_object(snapshot, model) for model in snapshot.visible_models(key)]
    return msgspec.json.encode({"object": "list", "data": data})


def may_read_metrics(peer: str, authorization: bytes | None, token: str | None) -> bool:
    """Metrics name models and traffic, so they are for this machine, or for who brings the token."""
    if token is not None:
        given = (authorization or b"").partition(b" ")[2].strip()
        return hmac.compare_digest(given, token.encode())
    try:
        return peer == "local" or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
