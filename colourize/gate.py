"""What stands before the web page's framework and lets through only what the page itself asks for.

Gradio serves much that this page has no use for: files by their path, other addresses through a proxy, monitoring, an
API. Here a request needs a known route, a host name that is ours, a bounded body, and, for a file, one that lies in the
page's own folder; and no other page that a browser shows may send anything. A browser is told to ask nobody else for
anything.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ASKED = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)?"
    r"|/(assets|static|svelte)/[\w./-]+"
    r"|/gradio_api/(startup-events|theme\.css|info|queue/data|upload_progress|heartbeat/\w+)"
)
_FILE = re.compile(r"/gradio_api/file=(.+)", re.DOTALL)
_SENT = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
_MESSAGE = 2**20  # bytes of a body that is no upload
_HEADERS = (
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class Gate:
    """ASGI middleware.

    `folder` is the only one whose files are served; `hosts` the names that this server goes by, None for any;
    `max_upload` the bytes of one upload, all files together.
    """

    def __init__(self, app: Any, *, folder: Path, hosts: frozenset[str] | None, max_upload: int) -> None:
        self.app = app
        self.folder = folder.resolve()
        self.hosts = hosts
        self.max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if refused := self.refusal(scope):
            status, words = refused
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *_HEADERS]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": words.encode()})
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.app(scope, receive, answer)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """HTTP status and words, or None for a request that may pass."""
        headers = dict(scope["headers"])
        host = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1")).strip("[]").lower()
        if self.hosts is not None and host not in self.hosts:
            return 421, "this server goes by another name"
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if file := _FILE.fullmatch(path):
                return None if self.serves(file[1]) else (403, "no such file here")
            return None if _ASKED.fullmatch(path) and ".." not in path else (404, "no such page here")
        if method != "POST" or not _SENT.fullmatch(path):
            return 404, "no such page here"
        if headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":  # a browser says who makes it ask
            return 403, "no other page may send anything here"
        length, limit = headers.get(b"content-length", b""), self.max_upload if "/upload" in path else _MESSAGE
        if not length.isdigit():
            return 411, "say how long it is"
        return None if int(length) <= limit else (413, f"too large: {int(length):,} bytes, and {limit:,} are allowed")

    def serves(self, name: str) -> bool:
        """Whether a path is that of a file in the folder, wherever its links lead."""
        try:
            path = Path(name).resolve()
            return path.is_relative_to(self.folder) and path.is_file()
        except (OSError, ValueError):
            return False
