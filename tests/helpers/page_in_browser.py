"""The page in a browser, as its user sees it."""

import json
import re
import urllib.request
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 120  # for anything to appear; it takes one, where nothing else runs
DESKTOP, PHONE = (1200, 1000), (390, 844)


class Page:
    """The page as a user sees it, by the names of its tabs and fields."""

    def __init__(self, driver: WebDriver, address: str, screenshots: Path):
        self.driver, self.address, self.screenshots = driver, address, screenshots

    def open(self, size=DESKTOP):
        """Opens the page anew in a window of (width, height) px."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        self.driver.get(self.address)
        self.shown("#draw-prompt textarea")
        return self

    def wait(self, until, what):
        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.2).until(lambda _: until(), what)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def shown(self, css):
        """The one element that fits, once it can be seen."""
        return self.wait(lambda: next((each for each in self.all(css) if each.is_displayed()), None), css)

    def tab(self, name):
        """Turns to a tab, by what is written on it."""
        self.wait(lambda: self._press_tab(name), name)

    def _press_tab(self, name):
        for each in self.all("button[role=tab]"):
            if each.is_displayed() and each.text == name:
                each.click()
                return each.get_attribute("aria-selected") == "true"

    def type(self, field, text):
        """Types a text in place of what a field has."""
        box = self.shown(f"#{field} :is(textarea, input)")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text)
        return box

    def press(self, button):
        """Presses a button, by its name."""
        found = self.shown(f"#{button}")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def settings(self, tab):
        """Opens the settings of a tab."""
        self.press(f"{tab}-settings button")

    def upload(self, field, *files):
        """Uploads files to where pictures go."""
        box = self.wait(lambda: next(iter(self.all(f"#{field} input[type=file]")), None), field)
        box.send_keys("\n".join(map(str, files)))

    def fill(self, field, text):
        """As `type`, at once: a long text takes a browser minutes to type."""
        box = self.type(field, "x")
        if box.get_attribute("role") == "combobox":
            box.send_keys(Keys.BACKSPACE, text, Keys.ENTER)
            return
        self.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            box,
            text,
        )

    def put_in_editor(self, field, file):
        """Uploads a picture to an editor, once its canvas is there: before, it would pass over it."""
        self.wait(lambda: "%" in self.text(f"#{field} .zoom-number") and self.all(f"#{field} canvas"), "the canvas")
        self.upload(field, file)
        self.wait(lambda: self.painted_over(field), "the picture in the editor")

    def paint(self, field, size, points):
        """Draws a line with the brush from point to point, (x, y) in px of a picture of this size."""
        canvas = self.shown(f"#{field} canvas")
        zoom = self.zoom(field)
        on_screen = [(round((x - size[0] / 2) * zoom), round((y - size[1] / 2) * zoom)) for x, y in points]
        actions = ActionChains(self.driver).move_to_element_with_offset(canvas, *on_screen[0]).click_and_hold()
        for point in on_screen[1:]:
            actions.move_to_element_with_offset(canvas, *point)
        actions.release().perform()

    def zoom(self, field):
        return int(self.text(f"#{field} .zoom-number").rstrip("%")) / 100

    def painted_over(self, field):
        """Whether the editor has a picture: it offers a brush size then."""
        return any(each.is_displayed() for each in self.all(f"#{field} button[aria-label='Brush Size']"))

    def text(self, css):
        return " ".join(each.text for each in self.all(css))

    def watch(self, css):
        """From now on keeps the texts that elements have; returns a function that gives them, in order."""
        self.driver.execute_script(
            """window.seen = []; new MutationObserver(() => document.querySelectorAll(arguments[0]).forEach(each =>
            seen.at(-1) === each.textContent.trim() || seen.push(each.textContent.trim())
            )).observe(document.body, {subtree: true, childList: true, characterData: true})""",
            css,
        )
        return lambda: self.driver.execute_script("return window.seen")

    def speed(self, tab):
        """Tokens and seconds, once a request has come to its end; one that was stopped may be before it."""
        told = re.compile(r"(\d+) tokens in ([\d.]+) s(?:: \d+ a second|, \d+ others before them)\.")
        return [
            float(each) for each in self.wait(lambda: told.search(self.text(f"#{tab}-line")), "the speed").groups()
        ]

    def run(self, tab):
        """Presses the tab's button and waits for the end."""
        before = self.text(f"#{tab}-line")
        self.press_until(f"{tab}-begin", lambda: self.text(f"#{tab}-line") != before)
        return self.speed(tab)

    def refused(self, tab):
        """Presses the tab's button, and gives the message that comes of it."""
        self.press_until(f"{tab}-begin", lambda: self.all(".toast-body"))
        return self.message()

    def press_until(self, button, done):
        """Presses a button, which does nothing until the page knows that the request before it is over."""

        def pressed():
            self.press(button)
            with suppress(TimeoutException):
                return WebDriverWait(self.driver, 10, 0.2).until(lambda _: done())

        self.wait(pressed, f"what {button} does")

    def message(self):
        """What an error says, which is closed then."""
        text = self.shown(".toast-body").text
        for each in self.all(".toast-close"):
            each.click()
        self.wait(lambda: not self.all(".toast-body"), "that the message is gone")
        return text

    def pictures(self, css):
        """The pictures behind `img` elements, as their files are."""
        return [self.fetched(each.get_attribute("src")) for each in self.all(f"{css} img")]

    def fetched(self, address):
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            return Image.open(BytesIO(response.read()))

    def screenshot(self, name):
        """Saves what can be seen, as it may lie in docs/."""
        self.driver.execute_script("window.scrollTo(0, 0)")
        file = self.screenshots / f"{name}.png"
        Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB").save(file, optimize=True)
        assert file.stat().st_size < 150_000

    def requested(self):
        """Hosts that the browser has asked for anything; None is data in the page itself."""
        hosts = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                hosts.add(urlsplit(message["params"]["request"]["url"]).hostname)
        return hosts
