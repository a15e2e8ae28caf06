"""Serving the page: to this machine unless told otherwise, what belongs to it and nothing else, and calling nobody."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsram.errors import UserError, printable, require_at_least
from wsram.terminal import Screen

LOCAL = "127.0.0.1"
LAST_PORT = 2**16 - 1
BYTES = 20_000_000
"""Of the largest file, or request, that is taken."""
API = "/gradio_api/"
PATHS = frozenset(("", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/startup-events"))
CALLS = frozenset(
    (
        *("app_id", "cancel", "info", "login_check", "queue/data", "queue/join", "queue/status", "reset"),
        *("startup-events", "theme.css", "token", "upload", "upload_progress"),
    )
)
"""What the page and its clients ask for. Gradio answers many more, which would fetch addresses or files for others."""
FOLDERS = ("/assets/", "/static/", "/svelte/", f"{API}heartbeat/")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""What a browser may load for the page: what is served here."""
CSS = Path(__file__).with_name("page.css")
Message = MutableMapping[str, Any]


class Guard:
    """Lets through what the page needs: known paths, bodies that are not too large, files that were uploaded.

    Args:
        app: an ASGI application, gradio's.
        uploads: folder of the files that were uploaded.
        largest: bytes of a body.
    """

    def __init__(self, app: Any, uploads: str, largest: int = BYTES) -> None:
        self.app, self.uploads, self.largest = app, uploads, largest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if not self._serves(scope["path"]):
            await _refuse(send, 404, "there is nothing here")
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.largest:
            await _refuse(send, 413, f"at most {self.largest:,} bytes are taken")
            return
        if scope["method"] == "POST":
            # All of it at once, since gradio would begin with what has come so far.
            body = b""
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > self.largest:
                    await _refuse(send, 413, f"at most {self.largest:,} bytes are taken")
                    return
            if scope["path"].startswith(f"{API}queue/join") and not self._uploaded(body):
                await _refuse(send, 400, "only what was uploaded is looked at")
                return
            receive = _again(body, receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, answer)

    def _serves(self, path: str) -> bool:
        file = path.removeprefix(f"{API}file=")
        if file != path:  # gradio looks closer
            return self._is_upload(file)
        named = path.rstrip("/")
        return named in PATHS or named.removeprefix(API) in CALLS or path.startswith(FOLDERS)

    def _is_upload(self, path: str) -> bool:
        """Whether a path is of what somebody has uploaded, whose name only they know."""
        return path.startswith(f"{self.uploads}/") and ".." not in path

    def _uploaded(self, body: bytes) -> bool:
        """Whether all files that a request names were uploaded: gradio would fetch from an address."""
        try:
            waiting = [json.loads(body)]
        except (ValueError, RecursionError):
            return False
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                path = value.get("path")
                if path is not None and not (isinstance(path, str) and self._is_upload(path)):
                    return False
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
        return True


def _again(body: bytes, receive: Any) -> Any:
    """A body that was read, to be read once more."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return dict(await receive())
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


async def _refuse(send: Any, status: int, said: str) -> None:
    body = f"{said}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(names: Sequence[str], *, host: str = LOCAL, port: int = 7860, at_once: int = 2) -> Iterator[str]:
    """Within it, the page is served; yields its address.

    Args:
        names: of networks, see `wsram.from_pretrained`.
        host: address to listen at; by default for this machine alone.
        port: to listen at; 0 for any that is free.
        at_once: requests that are answered at the same time; others wait.

    Raises:
        UserError: a network is not there, the app extra is not installed, or one cannot listen at that address.
    """
    require_at_least(1, **{"the number of requests at once": at_once})
    port = _free(host, port)
    gr = load_gradio()
    from starlette.middleware import Middleware

    from wsram.app.page import Networks, build_page

    networks = Networks(_opened(names))
    before = os.environ.get("GRADIO_TEMP_DIR")
    with TemporaryDirectory(prefix="wsram-app-") as place:
        uploads = os.path.realpath(place)
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = build_page(networks, at_once=at_once)
        try:
            try:
                page.launch(
                    server_name=host,
                    server_port=port,
                    share=False,
                    prevent_thread_lock=True,
                    quiet=True,
                    inbrowser=False,
                    max_file_size=BYTES,
                    enable_monitoring=False,
                    mcp_server=False,
                    ssr_mode=False,
                    run_history=False,
                    pwa=False,
                    footer_links=[],
                    app_kwargs={"middleware": [Middleware(Guard, uploads=uploads)]},
                    theme=_theme(gr),
                    css_paths=[CSS],
                )
            except OSError as error:
                raise UserError(f"cannot listen at {host}, port {port} ({error}); name another --port") from error
            yield f"http://{'localhost' if host in (LOCAL, '0.0.0.0') else host}:{port}"
        finally:
            page.close(verbose=False)
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def serve(names: Sequence[str], screen: Screen, *, host: str, port: int, at_once: int) -> None:
    """Serve the page until Ctrl-C; raises as `serving` does."""
    with contextlib.suppress(KeyboardInterrupt), serving(names, host=host, port=port, at_once=at_once) as address:
        screen.say(f"Watch it look at {address} (Ctrl-C ends it)")
        if host != LOCAL:
            screen.say(f"Note: whoever reaches this machine at {host} can use it; nobody is asked for a password")
        threading.Event().wait()


def load_gradio() -> Any:
    """The package gradio, told not to call home when it is imported; `UserError` if what it needs is not installed."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
        import starlette.middleware  # noqa: F401  # which comes with it
    except ImportError as error:
        raise UserError(
            f'the app needs the package {error.name}, which is not installed; pip install "wsram[app]"'
        ) from error
    return gradio


def _free(host: str, port: int) -> int:
    """The port, or any that is free for 0; `UserError` where one cannot listen there."""
    if not 0 <= port <= LAST_PORT:  # which would be taken modulo 2^16
        raise UserError(f"expected a port from 0 to {LAST_PORT}, got port {port}; name another --port")
    try:
        family, kind, protocol, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(at)
            return int(tried.getsockname()[1])
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen at {printable(host)}, port {port} ({reason}); name another --port or --host"
        ) from error


def _theme(gr: Any) -> Any:
    """Gradio's own, with letters that are on every machine and dark enough to be read."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    dim, dim_dark = "*neutral_600", "*neutral_300"
    return theme.set(
        body_text_color_subdued=dim,
        body_text_color_subdued_dark=dim_dark,
        block_info_text_color=dim,
        block_info_text_color_dark=dim_dark,
        block_label_text_color=dim,
        block_label_text_color_dark=dim_dark,
        block_title_text_color=dim,
        block_title_text_color_dark=dim_dark,
        button_primary_background_fill="#0b63a5",
        button_primary_background_fill_hover="#084c80",
        button_primary_background_fill_dark="#0b63a5",
        button_primary_background_fill_hover_dark="#084c80",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def _opened(names: Sequence[str]) -> dict[str, Any]:
    """The networks, by the last part of their names where that tells them apart: nobody learns where they lie."""
    from wsram.predictor import from_pretrained

    if repeated := [name for n, name in enumerate(names) if name in names[:n]]:
        raise UserError(f"expected every network once, got {repeated[0]} twice; name it once")
    short = [Path(name).name or name for name in names]
    told = [last if short.count(last) == 1 else name for last, name in zip(short, names, strict=True)]
    return {each: from_pretrained(name) for each, name in zip(told, names, strict=True)}
