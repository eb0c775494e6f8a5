"""`transformers-arm serve` as a process, OpenAI's clients of it, and what requests and answers hold."""

import base64
import http.client
import re
import subprocess
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlparse

from openai import OpenAI
from PIL import Image
from running_server import running_server

ARM_TINY = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"
KEY = "a key of the tests"


class ArmServer:
    """A running server.

    Attributes:
        url: its address, without a path.
        process: the `Popen`.
    """

    def __init__(self, process: subprocess.Popen, url: str):
        self.process, self.url = process, url

    def client(self, kind=OpenAI, **options):
        return kind(**{"base_url": f"{self.url}/v1", "api_key": KEY, "max_retries": 0, "timeout": 120} | options)

    def send(self, method: str, path: str, body=None, headers: dict | None = None, key: str = KEY) -> tuple:
        """Status, headers and body of what comes back for any request."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **(headers or {})}
        with closing(http.client.HTTPConnection(urlparse(self.url).netloc, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()

    def metric(self, name: str) -> float:
        """The sum of a metric of Prometheus over its labels."""
        text = self.send("GET", "/metrics")[2].decode()
        return sum(map(float, re.findall(rf"^transformers_arm_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


@contextmanager
def arm_server(log: Path, *options: str, model: Path = ARM_TINY):
    """An `ArmServer`; what it says of errors goes to the file `log`."""
    with running_server(log, str(model), "--api-key", KEY, *options) as (process, url):
        yield ArmServer(process, url)


def file_of(picture: Image.Image, output_format: str = "PNG", **options) -> bytes:
    file = BytesIO()
    picture.save(file, output_format, **options)
    return file.getvalue()


def url_of(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(file_of(picture)).decode()}"


def picture_of(b64_json: str) -> Image.Image:
    picture = Image.open(BytesIO(base64.b64decode(b64_json)))
    picture.load()
    return picture
