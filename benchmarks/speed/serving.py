"""Prints how many requests a second `transformers-arm serve` answers, to one client at a time and to many at once.

    OMP_NUM_THREADS=1 python benchmarks/speed/serving.py [--model checkpoints/arm-tiny] [--requests 64]
        [--clients 1 4 16] [--max-batch 16] [--size auto] [--rounds 3] [--output FILE]

One server, in a process of its own, and OpenAI's client; the numbers of clients take turns, medians over the rounds. A
client asks for a picture as soon as it has the last. Each picture has a seed of its own, and the codes of a seed must
be the same for any number of clients, or the figures are void.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from openai import AsyncOpenAI
from running_server import running_server

from transformers_arm.evaluation.results import write_result

PROMPT = "a red circle above a blue square"


async def asked(url: str, arguments: argparse.Namespace, clients: int) -> tuple[float, list[float], dict]:
    """Seconds of all requests, seconds of each, and codes by seed."""
    seeds, seconds, codes = iter(range(arguments.requests)), [], {}

    async def client():
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=3600) as openai_client:
            for seed in seeds:
                began = time.perf_counter()
                response = await openai_client.images.generate(
                    prompt=PROMPT, size=arguments.size, extra_body={"seed": seed, "codes": True}
                )
                seconds.append(time.perf_counter() - began)
                codes[seed] = response.data[0].codes

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began, seconds, codes


def measure(url: str, arguments: argparse.Namespace) -> list[dict]:
    """A row for each number of clients.

    Raises:
        RuntimeError: a picture depends on who asked beside it.
    """
    asyncio.run(asked(url, arguments, max(arguments.clients)))  # a warm-up
    rounds, expected = {clients: [] for clients in arguments.clients}, None
    for _ in range(arguments.rounds):
        for clients in arguments.clients:
            whole, each, codes = asyncio.run(asked(url, arguments, clients))
            expected = expected or codes
            if codes != expected:
                different = [seed for seed in codes if codes[seed] != expected[seed]]
                raise RuntimeError(f"With {clients} clients the seeds {different} gave other codes.")
            rounds[clients].append((arguments.requests / whole, each))
    first = statistics.median(rate for rate, _ in rounds[arguments.clients[0]])
    rows = []
    for clients, measured in rounds.items():
        rate = statistics.median(rate for rate, _ in measured)
        latencies = sorted(seconds for _, each in measured for seconds in each)
        rows.append(
            {
                "clients": clients,
                "requests_per_second": rate,
                "times": rate / first,
                "median_seconds": statistics.median(latencies),
                "slowest_seconds": latencies[-1],
            }
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/arm-tiny", help="folder, or ORG/NAME on the Hub")
    parser.add_argument("--requests", type=int, default=64, help="a round")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 4, 16], help="at once; the first is compared with"
    )
    parser.add_argument("--max-batch", type=int, default=16, help="of the server")
    parser.add_argument("--size", default="auto", help="of the pictures, WIDTHxHEIGHT")
    parser.add_argument("--device", help="of the server")
    parser.add_argument("--dtype", help="of the server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    options = ["--max-batch", str(arguments.max_batch), "--queue", str(max(arguments.clients))]
    for name in ("device", "dtype"):
        options += [f"--{name}", getattr(arguments, name)] if getattr(arguments, name) else []
    with tempfile.TemporaryDirectory() as folder:
        with running_server(Path(folder) / "log", arguments.model, *options) as (_, url):
            rows = measure(url, arguments)
    print("| clients | requests a second | times | median, s | slowest, s |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['clients']} | {row['requests_per_second']:.2f} | {row['times']:.2f} | "
            f"{row['median_seconds']:.2f} | {row['slowest_seconds']:.2f} |"
        )
    if arguments.output:
        write_result(arguments.output, **vars(arguments), rows=rows)
