"""Serves an ASGI application on an inherited loopback socket."""

import socket

import uvicorn
from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 1


async def serve_on(app: ASGIApp, listen_fd: int) -> None:
    """Serves until SIGTERM or SIGINT. Requests still running then (long polls) get a second.

    Forwarded addresses are believed: only our gateway and this machine reach the socket.
    """
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    await uvicorn.Server(config).serve(sockets=[socket.socket(fileno=listen_fd)])
