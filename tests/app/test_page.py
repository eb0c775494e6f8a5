"""People draw, edit, ask and tell stories on the page, in a real browser, and find what they asked for."""

import numpy as np
import pytest
from page_in_browser import PHONE
from PIL import Image
from selenium.webdriver.common.keys import Keys

from transformers_arm.worlds.shapes import Scene, SceneObject, draw_scene, read_scene
from transformers_arm.worlds.shapes.questions import answer_question
from transformers_arm.worlds.shapes.scores import picture_is_right

PROMPT = "a red circle left of a blue square"
SCENE = Scene(
    (SceneObject("square", "blue", "small", "top-right"), SceneObject("circle", "red", "small", "bottom-left")),
    "white",
)


@pytest.fixture
def scene(tmp_path):
    """A file with a picture of `SCENE`, and a name that people give."""
    file = tmp_path / "mein Bild (1).png"
    draw_scene(SCENE).save(file)
    return file


def test_a_prompt_is_drawn_as_it_says_and_previews_come_first(page):
    page.type("draw-prompt", PROMPT)
    page.settings("draw")
    page.type("draw-seed", "0")
    captions = page.watch("#draw-pictures .caption-label")
    tokens, seconds = page.run("draw")
    assert tokens == 9 and seconds > 0
    (picture,) = page.pictures("#draw-pictures")
    assert picture.format == "PNG" and picture.size == (48, 48) and picture_is_right(PROMPT, picture)
    seen = captions()
    assert "row 1 of 3" in seen and seen[-1] == "seed 0"
    page.screenshot("page_draw")


def test_several_pictures_of_a_size_with_seeds_that_follow_each_other(page):
    page.type("draw-prompt", PROMPT)
    page.settings("draw")
    page.type("draw-seed", "5")
    page.type("draw-size", "96x48").send_keys(Keys.ENTER)
    page.type("draw-count", "3").send_keys(Keys.TAB)
    page.run("draw")
    assert [each.text for each in page.all("#draw-pictures .caption-label")] == ["seed 5", "seed 6", "seed 7"]
    assert [each.size for each in page.pictures("#draw-pictures")] == [(96, 48)] * 3


def test_a_picture_can_be_downloaded(page, downloads):
    page.type("draw-prompt", PROMPT)
    page.run("draw")
    (shown,) = page.pictures("#draw-pictures")
    page.shown("#draw-pictures .thumbnail-item").click()
    page.shown("#draw-pictures button[title='Download']").click()
    file = page.wait(lambda: next(downloads.glob("*.png"), None), "the file")
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(shown))


def draw_for_long(page, size):
    """Begins to draw eight pictures."""
    page.type("draw-prompt", PROMPT)
    page.settings("draw")
    page.type("draw-size", size).send_keys(Keys.ENTER)
    page.type("draw-count", "8").send_keys(Keys.TAB)
    page.press("draw-begin")
    page.wait(lambda: "0 of 8 drawn" in page.text("#draw-line"), "that it has begun")


def test_stop_ends_what_is_drawn_and_the_next_request_is_taken(page):
    draw_for_long(page, "256x256")
    page.wait(lambda: "row" in page.text("#draw-pictures"), "a preview")
    page.press("draw-stop")
    page.wait(lambda: page.text("#draw-line") == "Stopped.", "that it has stopped")
    page.type("draw-size", "96x96").send_keys(Keys.ENTER)
    page.type("draw-count", "1").send_keys(Keys.TAB)
    assert page.run("draw")[0] == 36


def test_what_cannot_be_drawn_is_a_message_and_leaves_what_was_drawn(page):
    page.type("draw-prompt", PROMPT)
    page.run("draw")
    before = page.text("#draw-line"), [each.get_attribute("src") for each in page.all("#draw-pictures img")]
    page.settings("draw")
    for field, usual, typed, said in (
        ("draw-size", "auto", "50x48", "multiples of 16"),
        ("draw-size", "auto", "large", "no width x height"),
        ("draw-seed", "", "-1", "seed -1"),
        ("draw-guidance", "", "much", 'Guidance "much" is not a number'),
        ("draw-temperature", "", "-3", "temperature -3.0"),
        ("draw-prompt", PROMPT, "  ", "write what to draw"),
        ("draw-prompt", PROMPT, "circle " * 5000, "The prompt has"),
    ):
        page.fill(field, typed)
        assert said in page.refused("draw")
        page.fill(field, usual)
    assert before == (page.text("#draw-line"), [each.get_attribute("src") for each in page.all("#draw-pictures img")])


def test_an_example_is_typed_by_a_click_and_enter_in_a_setting_draws(page):
    page.shown("#draw-prompt ~ * button.gallery-item, .gallery-item").click()
    page.wait(lambda: page.shown("#draw-prompt textarea").get_attribute("value") == PROMPT, "the example")
    page.settings("draw")
    page.type("draw-seed", "3").send_keys(Keys.ENTER)
    page.speed("draw")
    assert [each.text for each in page.all("#draw-pictures .caption-label")] == ["seed 3"]


def test_an_edit_changes_what_is_painted_over_and_no_pixel_elsewhere(page, scene):
    page.tab("Edit")
    page.put_in_editor("edit-painting", scene)
    page.paint("edit-painting", (48, 48), [(6, 40), (10, 40)])
    page.type("edit-prompt", "make the red circle green")
    page.settings("edit")
    page.type("edit-seed", "0")
    page.run("edit")
    (edited,) = page.pictures("#edit-pictures")
    objects = {(each.color, each.shape, each.cell) for each in read_scene(edited).objects}
    assert objects == {("blue", "square", "top-right"), ("green", "circle", "bottom-left")}
    before, after = np.asarray(draw_scene(SCENE)), np.asarray(edited)
    assert np.array_equal(before[:24], after[:24]) and np.array_equal(before[:, 32:], after[:, 32:])
    page.screenshot("page_edit")


def test_an_edit_takes_further_pictures(page, scene):
    page.tab("Edit")
    page.put_in_editor("edit-painting", scene)
    page.shown("#edit-more button").click()
    page.upload("edit-others", scene, scene)
    page.wait(lambda: len(page.all("#edit-others img")) == 2, "both pictures")
    page.type("edit-prompt", "make the red circle green")
    assert page.run("edit")[0] == 9


def test_a_question_is_answered(page, scene):
    page.tab("Ask")
    page.upload("ask-picture", scene)
    page.wait(lambda: page.all("#ask-picture img"), "the picture")
    for question in ("how many objects are there?", "what color is the background?"):
        page.type("ask-prompt", question)
        page.run("ask")
        assert page.shown("#ask-answer textarea").get_attribute("value") == answer_question(question, SCENE)


def test_a_story_has_pictures_and_texts_and_goes_on(page):
    page.tab("Tell stories")
    prompt = "a red circle above a blue square"
    page.type("story-prompt", f"tell a story of {prompt}")
    page.settings("story")
    page.type("story-seed", "0")
    page.run("story")
    first, *others = page.pictures("#story-chat")
    assert picture_is_right(prompt, first) and others
    assert "make the" in page.text("#story-chat")
    assert all(each.get_property("naturalWidth") for each in page.all("#story-chat img"))
    assert not any(each.is_displayed() for each in page.all("button[title=Share]"))
    page.screenshot("page_stories")
    page.type("story-prompt", "tell a story of a green cross")
    page.run("story")
    assert len(page.pictures("#story-chat")) > 1 + len(others)


def test_what_is_written_in_a_story_stays_text(page):
    """Neither a foreign host is asked, which the page's fixture sees, nor anything shown as HTML."""
    page.tab("Tell stories")
    written = '<img src="http://example.com/x.png"> <b>a</b> & **red** [circle](http://example.com)'
    page.type("story-prompt", written)
    page.run("story")
    assert written in page.text("#story-chat")
    elsewhere = "#story-chat a[href*='example.com'], #story-chat img[src*='example.com']"
    assert not page.all(f"#story-chat b, #story-chat strong, {elsewhere}")


def test_a_story_that_is_stopped_is_as_it_was(page):
    page.tab("Tell stories")
    page.type("story-prompt", "tell a story of a green cross")
    page.run("story")
    before = page.text("#story-chat")
    page.tab("Draw")
    draw_for_long(page, "512x512")
    page.tab("Tell stories")
    page.type("story-prompt", "tell a story of a red circle")
    page.press("story-begin")
    page.wait(lambda: page.text("#story-line") == "Waiting; 8 before this.", "that it waits")
    assert page.text("#story-chat") != before
    page.press("story-stop")
    page.wait(lambda: "as it was before" in page.text("#story-line"), "that it has stopped")
    page.wait(lambda: page.text("#story-chat") == before, "what there was")
    page.tab("Draw")
    page.press("draw-stop")


def test_a_file_that_is_no_picture_is_a_message(page, tmp_path):
    wrong = tmp_path / "notes.png"
    wrong.write_text("no picture")
    page.tab("Ask")
    page.upload("ask-picture", wrong)
    page.wait(lambda: page.all("#ask-picture img"), "the file")
    page.type("ask-prompt", "how many objects are there?")
    assert "notes.png cannot be opened" in page.refused("ask")
    page.tab("Edit")
    page.upload("edit-painting", wrong)
    page.type("edit-prompt", "make the red circle green")
    assert "no picture to edit; upload one that your browser can open" in page.refused("edit")


def test_a_text_file_is_refused_by_its_name(page, tmp_path):
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no picture")
    page.tab("Ask")
    page.upload("ask-picture", wrong)
    assert "Invalid file type" in page.message()


def test_the_page_fits_a_phone(page):
    page.open(PHONE)
    for tab in ("Edit", "Ask", "Tell stories", "Draw"):
        page.tab(tab)
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    page.type("draw-prompt", PROMPT)
    page.run("draw")
    (picture,) = page.pictures("#draw-pictures")
    assert picture_is_right(PROMPT, picture)
    page.screenshot("page_phone")
