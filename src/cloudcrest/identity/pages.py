"""The pages that mailed links lead to: take an invitation, confirm an address, choose a new password.

One static page, which calls the management API. The token stands after `#`, so it reaches no server's log.
"""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PATHS = ("/invitations", "/verify-email", "/password-reset")


def router() -> APIRouter:
    """GET of each path; they are no part of the API and its document."""
    routes = APIRouter(include_in_schema=False)
    html = files("cloudcrest.identity").joinpath("pages.html").read_text("utf-8")
    headers = {"content-security-policy": _policy(html), "referrer-policy": "no-referrer"}

    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    for path in PATHS:
        routes.add_api_route(path, page, methods=["GET"], response_class=HTMLResponse)
    return routes


def _policy(html: str) -> str:
    """The page's own script and style run, nothing else does, and no site shows it in a frame."""
    script, style = (_hash(part, html) for part in ("script", "style"))
    own = "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; script-src {script}; style-src {style}; {own}"


def _hash(tag: str, html: str) -> str:
    content = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256((content[1] if content else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
