"""The web page: drop a picture, see it before and after, take it home. What it does is in `conversion`.

Nothing leaves the machine: no analytics, no share link, no fonts or scripts from elsewhere (`gate` sees to it).
"""

from __future__ import annotations

import html
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from .conversion import MAX_BYTES, MAX_FILES, MAX_PIXELS, Converter, convert_all
from .files import UserError
from .gate import Gate

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_PREVIEW = 1280  # pixels of the longer side on the screen
_KEPT = 3600  # seconds that pictures stay on the server
_MAX_UPLOAD = 10 * MAX_BYTES
_CSS = """
.gradio-container { max-width: 1080px !important; margin: auto !important; }
.problem { color: #b42318; background: #fef3f2; border: 1px solid #fda29b; border-radius: 8px; padding: .6em .9em; }
.done { padding: .6em .1em; }
"""
_INTRODUCTION = f"""
# colourize
Drop a picture: it goes to this server and nowhere else, and is removed after an hour or when the server ends.
PNG, JPEG, WebP, GIF, BMP or TIFF, up to {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} megapixels.
"""


def check_packages() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError('serve needs gradio, of the extra [web]: pip install -e ".[web]"')


@contextmanager
def served(converters: Sequence[Converter], *, host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """The page's address, while the block runs. Raises `UserError` if gradio or the port is not to be had.

    `port` 0 takes a free one.
    """
    check_packages()
    temporary = tempfile.TemporaryDirectory(prefix="colourize-")
    with temporary as name, _settled(folder := Path(name).resolve()), _nothing_fetched():
        import gradio
        from starlette.middleware import Middleware

        hosts = _LOCAL | {host.lower()} if host in _LOCAL else None
        gate = Middleware(Gate, folder=folder, hosts=hosts, max_upload=_MAX_UPLOAD)
        made = page(converters, folder)
        try:
            made.launch(
                server_name=host,
                server_port=_bindable(host, port),
                app_kwargs={"middleware": [gate]},
                max_file_size=MAX_BYTES,
                allowed_paths=[],
                theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=_CSS,
                footer_links=[],
                share=False,
                pwa=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                inbrowser=False,
                show_error=True,
                prevent_thread_lock=True,
                quiet=True,
            )
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --host or --port") from error
        over = threading.Event()
        threading.Thread(target=_tidy, args=(folder, over), daemon=True).start()
        try:
            yield made.local_url
        finally:
            over.set()
            made.close(verbose=False)


@contextmanager
def _settled(folder: Path) -> Iterator[None]:
    """Says to gradio, before it is imported, where to keep files, and to tell nobody."""
    before = dict(os.environ)
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Keeps gradio from downloading what a request names in place of an upload."""
    from gradio import Error, processing_utils

    async def refuse(url: str, cache_dir: str) -> str:
        raise Error("only pictures that are sent are converted, none from an address")

    before = processing_utils.async_ssrf_protected_download
    processing_utils.async_ssrf_protected_download = refuse
    try:
        yield
    finally:
        processing_utils.async_ssrf_protected_download = before


def _bindable(host: str, port: int) -> int:
    """The port, or for 0 a free one; raises `OSError`, saying why, where gradio would say that no port is free."""
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended holds no port
        probe.bind((host, port))
        return probe.getsockname()[1]


def page(converters: Sequence[Converter], folder: Path) -> Any:
    """The gradio page; what it makes lies in `folder`."""
    import gradio as gr

    titles = {f"{number}. {c.title}" if len(converters) > 1 else c.title: c for number, c in enumerate(converters, 1)}

    def one(title: str, file: str | None) -> tuple[Any, ...]:
        if file is None:
            return "", gr.update(value=None), gr.update(value=None, interactive=False)
        try:
            converted = titles[title].convert(_read(file), file)
        except UserError as error:
            return _problems([str(error)]), gr.update(value=None), gr.update(value=None, interactive=False)
        target = Path(tempfile.mkdtemp(dir=folder), converted.name)
        target.write_bytes(converted.png)
        width, height = converted.after.size
        words = f"<div class=done>{html.escape(converted.name)}, {width} × {height}</div>"
        previews = _preview(converted.before), _preview(converted.after)
        return words, gr.update(value=previews), gr.update(value=str(target), interactive=True)

    def several(title: str, files: list[str] | None, progress=gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        if not files:
            return "", gr.update(value=None, interactive=False)
        if len(files) > MAX_FILES:
            words = f"{len(files)} files are too many at once: up to {MAX_FILES}, please"
            return _problems([words]), gr.update(value=None, interactive=False)
        target = Path(tempfile.mkdtemp(dir=folder), "pictures.zip")
        named = [(file, lambda file=file: _read(file)) for file in files]
        with open(target, "wb") as archive:
            report = lambda done, name: progress((done, len(files)), desc=name, unit="pictures")  # noqa: E731
            names, problems = convert_all(titles[title], named, archive, report)
        words = f"<div class=done>{len(names)} of {len(files)} done.</div>" + _problems(problems)
        return words, gr.update(value=str(target) if names else None, interactive=bool(names))

    with gr.Blocks(title="colourize", analytics_enabled=False) as made:
        gr.Markdown(_INTRODUCTION)
        choice = gr.Radio([*titles], value=next(iter(titles)), label="Network", visible=len(titles) > 1)
        with gr.Tab("One picture"), gr.Row():
            with gr.Column(scale=1):
                file = gr.File(label="Picture", height=180, elem_id="picture")
                said = gr.HTML(elem_id="said")
                download = gr.DownloadButton("Download the PNG", interactive=False, variant="primary", elem_id="png")
            with gr.Column(scale=2):
                slider = gr.ImageSlider(
                    label="Before | after", format="png", interactive=False, max_height=620, elem_id="slider"
                )
        with gr.Tab("Several"):
            files = gr.File(label="Pictures", file_count="multiple", height=180, elem_id="pictures")
            said_of_all = gr.HTML(elem_id="said-of-all", min_height=80)
            archive = gr.DownloadButton("Download the zip", interactive=False, variant="primary", elem_id="zip")
        shared = {"concurrency_id": "network", "concurrency_limit": 1, "show_progress": "minimal"}
        for event in (file.change, choice.change):
            event(one, [choice, file], [said, slider, download], **shared)
        files.change(several, [choice, files], [said_of_all, archive], concurrency_id="network", show_progress="full")
    return made


def _read(file: str) -> bytes:
    """An upload, and one byte more than is allowed of one that is too large."""
    with open(file, "rb") as content:
        return content.read(MAX_BYTES + 1)


def _problems(sentences: list[str]) -> str:
    return "".join(f"<div class=problem>{html.escape(sentence)}</div>" for sentence in sentences)


def _preview(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.thumbnail((_PREVIEW, _PREVIEW))
    return image


def _tidy(folder: Path, over: threading.Event) -> None:
    """Removes what has not been touched for `_KEPT`, until it is `over`."""
    while not over.wait(timeout=60):
        for entry in folder.iterdir():
            if time.time() - entry.stat().st_mtime > _KEPT:
                shutil.rmtree(entry, ignore_errors=True)
