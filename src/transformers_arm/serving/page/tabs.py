"""The tabs of the page: draw, edit, ask, tell stories. Each lays out its fields, and says what request they make."""

from contextlib import aclosing

import gradio as gr

from ..engine import ConversationRequest, Engine, InvalidRequest, PictureRequest
from .components import (
    MOST_PICTURES,
    PREVIEWS,
    STOPPED,
    Files,
    begin_and_stop,
    chat,
    drawings,
    examples,
    line,
    messages,
    number_box,
    painting_box,
    seed_box,
    settings,
    size_box,
    text_box,
    tiles_in_files,
    uploads,
)
from .fields import edited, number, sampling, size_of, stated, uploaded
from .shown import answer, pictures, words


def draw_tab(engine: Engine) -> None:
    def draw(prompt, size, count, seed, guidance, temperature):
        request = PictureRequest(
            stated(prompt, "what to draw"),
            size=size_of(size),
            count=count,
            seed=number(seed, "Seed", int),
            previews=PREVIEWS,
            sampling=sampling(guidance, temperature=temperature),
        )
        return tiles_in_files(pictures(engine, request))

    with gr.Row():
        with gr.Column():
            prompt = text_box("draw-prompt", "Prompt", "what to draw")
            examples(engine.about.examples.get("draw"), prompt)
            with settings("draw"):
                with gr.Row():
                    size, seed = size_box("draw", engine.about), seed_box("draw")
                with gr.Row():
                    guidance = number_box("draw-guidance", "Guidance")
                    temperature = number_box("draw-temperature", "Temperature")
                count = gr.Slider(1, MOST_PICTURES, 1, step=1, label="How many", elem_id="draw-count")
            buttons = gr.Column()
        with gr.Column():
            results = [drawings("draw", "Pictures"), line("draw")]
    with buttons:
        begin_and_stop("draw", "Draw", draw, [prompt, size, count, seed, guidance, temperature], results)


def edit_tab(engine: Engine) -> None:
    def edit(instruction, painting, others, seed, guidance, image_guidance, temperature):
        source, mask = edited(painting)
        request = PictureRequest(
            stated(instruction, "what to change"),
            images=[source, *uploaded(others)],
            mask=mask,
            seed=number(seed, "Seed", int),
            previews=PREVIEWS,
            sampling=sampling(guidance, image_guidance, temperature),
        )
        return tiles_in_files(pictures(engine, request))

    with gr.Row():
        with gr.Column():
            gr.Markdown("Upload a picture, and paint where it may change; without paint, that is everywhere.")
            painting = painting_box("edit", engine.about)
            instruction = text_box("edit-prompt", "Instruction", "what to change")
            examples(engine.about.examples.get("edit"), instruction)
            with gr.Accordion("Further pictures", open=False, elem_id="edit-more"):
                others = uploads("edit-others", "What the edit is made of, beside the first")
            with settings("edit"):
                with gr.Row():
                    seed, temperature = seed_box("edit"), number_box("edit-temperature", "Temperature")
                with gr.Row():
                    guidance = number_box("edit-guidance", "Guidance")
                    image_guidance = number_box("edit-image-guidance", "Guidance of pictures")
            buttons = gr.Column()
        with gr.Column():
            results = [drawings("edit", "Edited"), line("edit")]
    with buttons:
        fields = [instruction, painting, others, seed, guidance, image_guidance, temperature]
        begin_and_stop("edit", "Edit", edit, fields, results)


def ask_tab(engine: Engine) -> None:
    def ask(question, files):
        content = [{"type": "image", "image": picture} for picture in uploaded(files)]
        if not content:
            raise InvalidRequest("There is no picture to ask about; upload one.", "image")
        content.append({"type": "text", "text": stated(question, "a question")})
        return words(engine, ConversationRequest([{"role": "user", "content": content}]))

    with gr.Row():
        with gr.Column():
            files = uploads("ask-picture", "Picture, or several")
            question = text_box("ask-prompt", "Question", "what you want to know")
            examples(engine.about.examples.get("converse"), question)
            buttons = gr.Column()
        with gr.Column():
            said = gr.Textbox(label="Answer", lines=4, interactive=False, buttons=["copy"], elem_id="ask-answer")
            so_far = line("ask")
    with buttons:
        begin_and_stop("ask", "Ask", ask, [question, files], [said, so_far])


def stories_tab(engine: Engine) -> None:
    def tell(said, files, seed, guidance, conversation):
        content = [{"type": "image", "image": picture} for picture in uploaded(files)]
        content.append({"type": "text", "text": stated(said, "what to tell")})
        asked = [*conversation, {"role": "user", "content": content}]
        request = ConversationRequest(
            asked,
            pictures=True,
            seed=number(seed, "Seed", int),
            previews=PREVIEWS,
            sampling=sampling(guidance),
        )
        return telling(conversation, asked, request)

    async def telling(before, asked, request):
        with Files() as files:
            async with aclosing(answer(engine, request)) as updates:
                async for parts, so_far, over in updates:
                    told = [*asked, {"role": "assistant", "content": parts}]
                    yield messages(told, files), so_far, told if over else before

    def stopped(said, files, seed, guidance, conversation):
        with Files() as files:
            yield messages(conversation, files), f"{STOPPED} The story is as it was before.", conversation

    conversation = gr.State([], time_to_live=3600)
    with gr.Row():
        with gr.Column():
            said = text_box("story-prompt", "What to tell, and how to go on", "a story of ...")
            examples(engine.about.examples.get("interleave"), said)
            with settings("story"):
                with gr.Row():
                    seed, guidance = seed_box("story"), number_box("story-guidance", "Guidance")
            with gr.Accordion("Pictures of yours", open=False):
                files = uploads("story-pictures", "What it is to be told of")
            buttons = gr.Column()
        with gr.Column():
            story = chat("story", "Story")
            so_far = line("story")
    with buttons:
        results = [story, so_far, conversation]
        begin_and_stop("story", "Tell", tell, [said, files, seed, guidance, conversation], results, stopped)
    story.clear(lambda: ("", []), None, [so_far, conversation], api_visibility="private")


TABS = {"draw": ("Draw", draw_tab), "edit": ("Edit", edit_tab), "converse": ("Ask", ask_tab)}
TABS["interleave"] = ("Tell stories", stories_tab)
