"""The page of arm-tiny in a process of its own, and a browser that is cut off from everything but this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_in_browser import Page
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",  # the canvas to paint on wants WebGL, and there may be no GPU
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="session")
def address():
    """Where the page is: `transformers-arm app` in a process of its own."""
    command = [sys.executable, "-m", "transformers_arm", "app", str(ROOT / "checkpoints" / "arm-tiny"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture(scope="session")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for each in OPTIONS:
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver:
        yield driver


@pytest.fixture
def downloads(driver, tmp_path):
    """The folder for what the browser downloads."""
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    return tmp_path


@pytest.fixture
def page(driver, address, tmp_path):
    """The page, opened anew; it asks nobody but itself for anything. Screenshots go where SCREENSHOTS says."""
    page = Page(driver, address, Path(os.environ.get("SCREENSHOTS") or tmp_path)).open()
    yield page
    assert page.requested() <= {urlsplit(address).hostname, None}
