"""The page as a whole, and as an application, which asks for nothing outside of it: no fonts, scripts, analytics."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI

from ..app import Server
from ..engine import Engine
from .fields import LIMITS
from .shown import heading
from .tabs import TABS

GRACE = 2  # seconds that what is drawn has to end, once the server is asked to
KEPT = 24 * 60 * 60  # seconds that pictures of the page lie in the temporary folder
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
CSS = """
button[title="Share"] { display: none; }  /* which leads to a host of others */
#story-chat img { width: 160px; object-fit: contain; }  /* small ones are enlarged */
"""


def page(engine: Engine) -> gr.Blocks:
    """The page, with a tab for each task of the engine."""
    about = engine.about
    with gr.Blocks(title=about.model, analytics_enabled=False, delete_cache=(3600, KEPT)) as blocks:
        gr.Markdown(f"# {about.model}\n{heading(about)}", sanitize_html=True)
        with gr.Tabs():
            for task, (name, tab) in TABS.items():
                if task in about.tasks:
                    with gr.Tab(name, id=task):
                        tab(engine)
    # The engine has a line of its own, with a bound.
    return blocks.queue(default_concurrency_limit=None, api_open=False)


def application(engine: Engine) -> FastAPI:
    """What a server of ASGI runs: the page alone. The engine is its own from now on, and ends with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        await asyncio.to_thread(engine.close)

    return gr.mount_gradio_app(
        FastAPI(lifespan=lifespan, openapi_url=None),
        page(engine),
        path="/",
        theme=gr.themes.Default(**FONTS),
        css=CSS,
        footer_links=["settings"],
        run_history=False,
        show_error=False,  # what is no message of ours tells nothing of the machine
        max_file_size=LIMITS.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


def serve_page(engine: Engine, bound: socket.socket, listens: Callable[[str], object]) -> None:
    """Shows the page to whoever opens it at a bound socket, until the process is asked to end.

    Args:
        listens: is called with the address, once it can be opened.
    """
    Server(application(engine), GRACE, listens).run(sockets=[bound])
