"""Gradio's components as this page has them: pictures as they are drawn, errors as messages, nothing that leads
elsewhere. Each is known to styles and tests by its tab and its name.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import wraps
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from PIL.Image import Image

from ..engine import About, EngineError
from .fields import AUTO, sizes
from .shown import Tiles

MOST_PICTURES = 8  # of a prompt
PREVIEWS = 8  # of a picture
BRUSH = "#ff3fa4"
STOPPED = "Stopped."
OWN = "the model's own"


def text_box(elem_id: str, label: str, placeholder: str) -> gr.Textbox:
    placeholder = f"{placeholder} (Shift+Enter begins)"
    return gr.Textbox(label=label, placeholder=placeholder, lines=2, max_lines=6, elem_id=elem_id)


def examples(texts: Sequence[str], box: gr.Textbox) -> None:
    if texts:
        gr.Examples(list(texts), box, label="Examples")


def settings(tab: str) -> gr.Accordion:
    """Where fields go that may stay as they are: what is drawn is then in sight on a phone."""
    return gr.Accordion("Settings", open=False, elem_id=f"{tab}-settings")


def number_box(elem_id: str, label: str, placeholder: str = OWN) -> gr.Textbox:
    """A number that may be left out; Gradio's own has no empty state."""
    # A value is stated, since a box that was never to be seen has none.
    return gr.Textbox("", label=label, placeholder=placeholder, max_lines=1, min_width=120, elem_id=elem_id)


def seed_box(tab: str) -> gr.Textbox:
    return number_box(f"{tab}-seed", "Seed", "any")


def size_box(tab: str, about: About) -> gr.Dropdown:
    label = "Size (width x height)"
    choices = sizes(about)
    return gr.Dropdown(choices, value=AUTO, label=label, allow_custom_value=True, min_width=120, elem_id=f"{tab}-size")


def painting_box(tab: str, about: About) -> gr.ImageEditor:
    return gr.ImageEditor(
        label="Picture",
        type="pil",
        format="png",
        sources=["upload", "clipboard"],
        brush=gr.Brush(default_size=max(2, min(about.size) // 8), colors=[BRUSH], color_mode="fixed"),
        transforms=(),
        layers=False,
        buttons=["fullscreen"],
        elem_id=f"{tab}-painting",
    )


def uploads(elem_id: str, label: str) -> gr.Gallery:
    """A place for pictures of a user's, whose files reach functions unopened."""
    return gr.Gallery(
        label=label,
        type="filepath",
        file_types=["image"],
        sources=["upload", "clipboard"],
        buttons=[],
        columns=3,
        fit_columns=False,
        height=200,
        object_fit="contain",
        interactive=True,
        elem_id=elem_id,
    )


def drawings(tab: str, label: str) -> gr.Gallery:
    """Where pictures appear as they are drawn, to be enlarged and downloaded as PNG."""
    return gr.Gallery(
        label=label,
        interactive=False,
        columns=2,
        object_fit="contain",
        height="auto",
        buttons=["download", "download_all", "fullscreen"],
        elem_id=f"{tab}-pictures",
    )


def chat(tab: str, label: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label,
        render_markdown=False,
        height=480,
        buttons=["copy_all"],
        feedback_options=None,
        elem_id=f"{tab}-chat",
    )


class Files:
    """PNG files of pictures, in a folder of their own until the context ends, each written once: pictures that Gradio
    gets as such it writes anew at each update, also while a browser reads them.
    """

    def __enter__(self) -> "Files":
        self.folder, self.written = TemporaryDirectory(prefix="transformers-arm-"), {}
        return self

    def __exit__(self, *error) -> None:
        self.folder.cleanup()

    def of(self, picture: Image, name: str) -> str:
        if id(picture) not in self.written:
            file = str(Path(self.folder.name) / f"{len(self.written)} {name}.png")
            picture.save(file)
            self.written[id(picture)] = file, picture  # whose id is no other's while it is here
        return self.written[id(picture)][0]


async def tiles_in_files(updates: AsyncGenerator[tuple[Tiles, str], None]) -> AsyncGenerator[tuple[list, str], None]:
    """Updates of pictures and captions, as a gallery shows them."""
    with Files() as files:
        async with aclosing(updates):
            async for tiles, so_far in updates:
                yield [(files.of(picture, caption), caption) for picture, caption in tiles], so_far


def messages(conversation: list[dict], files: Files) -> list[dict]:
    """A conversation as a chatbot shows it: a message a part. Texts stay as they are written, and open no address: it
    takes them for HTML also where it takes none for Markdown.
    """

    def content(part: dict) -> str | dict:
        is_text = part["type"] == "text"
        return escape(part["text"], quote=False) if is_text else {"path": files.of(part["image"], "picture")}

    return [{"role": each["role"], "content": content(part)} for each in conversation for part in each["content"]]


def line(tab: str) -> gr.Markdown:
    """Where it says how far a request is, or how fast it was."""
    return gr.Markdown(elem_id=f"{tab}-line", min_height=24)


def told(updates_of: Callable[..., AsyncGenerator]) -> Callable[..., AsyncGenerator]:
    """A handler of Gradio's for a function of the same values, which is called in a thread and gives the updates; what
    it, or an engine, refuses is shown as a message.
    """

    @wraps(updates_of)
    async def telling(*values):
        try:
            async with aclosing(await asyncio.to_thread(updates_of, *values)) as updates:
                async for update in updates:
                    yield update
        except EngineError as error:
            raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error

    return telling


def begin_and_stop(
    tab: str,
    begin: str,
    updates_of: Callable[..., AsyncGenerator],
    fields: list,
    results: list,
    stopped: Callable[..., Iterator] | None = None,
) -> None:
    """A button that begins, as Shift+Enter in the first field and Enter in those of one line do, and one that stops.

    Args:
        updates_of: of the fields' values; an asynchronous generator of values of the results.
        results: components; the second of them is a `line`.
        stopped: of the fields' values, what the results are once it has been stopped; otherwise the line says so.
    """
    with gr.Row():
        button = gr.Button(begin, variant="primary", min_width=100, elem_id=f"{tab}-begin")
        stop = gr.Button("Stop", variant="secondary", min_width=80, elem_id=f"{tab}-stop")
    begun = gr.on(
        [button.click, *(each.submit for each in fields if isinstance(each, gr.Textbox))],
        told(updates_of),
        fields,
        results,
        scroll_to_output=True,
        show_progress="hidden",
        trigger_mode="once",
        api_visibility="private",
    )
    if stopped:
        stop.click(stopped, fields, results, cancels=[begun], api_visibility="private")
    else:
        stop.click(lambda: STOPPED, None, results[1], cancels=[begun], api_visibility="private")
