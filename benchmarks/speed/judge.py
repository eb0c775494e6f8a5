"""Prints how long VLMJudge takes for pictures: encoded in threads on the way, beside all as PNG in one thread before.

    python benchmarks/speed/judge.py [--pictures 32] [--size 1024] [--latency 0] [--output FILE]

The judge is a server on loopback that answers each request `latency` seconds after it came. Pictures are smooth
colours with noise, each of its own; every way has its own judge, without a cache.
"""

import argparse
import asyncio
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
from PIL import Image

from transformers_arm.evaluation.results import write_result
from transformers_arm.rewards import VLMJudge
from transformers_arm.rewards.pictures import PictureEncoder

WAYS = ("PNG, one thread, before the first request", "PNG, threads", "JPEG, threads")
SCORES = '{"objects": 8, "attributes": 6, "relations": 10}'


class Server(ThreadingHTTPServer):
    """Answers with `SCORES`, and notes when the first request since `first` was None came."""

    daemon_threads = True

    def __init__(self, latency: float):
        super().__init__(("127.0.0.1", 0), Handler)
        self.latency, self.first = latency, None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.first = self.server.first or time.monotonic()
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.latency)
        body = json.dumps({"choices": [{"message": {"content": SCORES}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def draw(size: int, seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).resize((size, size), Image.BICUBIC)
    noise = generator.normal(0, 4, (size, size, 3))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


class EncodedBefore(PictureEncoder):
    """All pictures are encoded by the thread that makes it."""

    def __init__(self, images: list[Image.Image]):
        super().__init__("png", 1024)
        self.urls = {self.name(image): super(EncodedBefore, self).data_url(image) for image in images}

    def data_url(self, image):
        return self.urls[self.name(image)]


async def judged(judge: VLMJudge, images: list[Image.Image], before: bool) -> list[float | None]:
    if before:
        judge._encoder = await asyncio.to_thread(EncodedBefore, images)
    count = len(images)
    return await judge(["a picture"] * count, images, [[]] * count, ["text_to_image"] * count)


def measure(images: list[Image.Image], latency: float) -> dict[str, dict[str, float]]:
    """Seconds of each way: to its first request and in all."""
    server, seconds = Server(latency), {}
    Thread(target=server.serve_forever, daemon=True).start()
    for way in WAYS:
        image_format = way.partition(",")[0].lower()
        judge = VLMJudge("judge", f"http://127.0.0.1:{server.server_port}/v1", image_format=image_format)
        server.first, start = None, time.monotonic()
        rewards = asyncio.run(judged(judge, images, before=way == WAYS[0]))
        seconds[way] = {"first request": server.first - start, "all": time.monotonic() - start}
        if None in rewards or judge.requests != len(images):
            raise RuntimeError(f"{way}: {judge.requests} requests gave {rewards}")
    server.shutdown()
    server.server_close()
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32, help="that are judged")
    parser.add_argument("--size", type=int, default=1024, help="px a side")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that the judge takes for an answer")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    seconds = measure([draw(arguments.size, seed) for seed in range(arguments.pictures)], arguments.latency)
    of_first, *_ = seconds.values()
    ratios = {way: {part: of_first[part] / each[part] for part in each} for way, each in seconds.items()}
    print(
        f"| {arguments.pictures} pictures of {arguments.size} px | first request, s | all, s | all, times as quick |"
    )
    print("|---|---|---|---|")
    for way, each in seconds.items():
        print(f"| {way} | {each['first request']:.2f} | {each['all']:.2f} | {ratios[way]['all']:.1f} |")
    if arguments.output:
        write_result(arguments.output, **{**vars(arguments), "seconds": seconds, "ratios": ratios})
