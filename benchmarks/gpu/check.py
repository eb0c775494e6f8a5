"""Runs the sections of `check.sh`, each in processes of its own with a limit of time, and writes how each went.

After each section `check_CARD.json` in the output folder has its status (ok, failed, timed out), seconds and commands,
beside the card, versions and the date; results of the sections lie next to it. A section that fails or is killed does
not stop the others. Exits with 1 where one is not ok.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import torch
from measuring import card

from transformers_arm.evaluation.results import write_result

ROOT = Path(__file__).parents[2]  # where commands run, so that what they write names files from here
SPEED, GPU = Path("benchmarks") / "speed", Path("benchmarks") / "gpu"
LIMITS = {"decoding": 260, "training": 100, "scores": 40, "grpo": 40, "renderers": 180, "suite": 600}  # seconds
DEFAULT = ("decoding", "training", "scores", "grpo")
VERSIONS = ("torch", "transformers", "accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "trl")
KEPT_LINES = 20  # of a section's output
TOY = {
    "decoding": "--size small --hidden 48 --layers 1 --codes 256 --batches 1 2 --grid 2 2 --repeats 1",
    "long": "--size small --hidden 48 --layers 1 --codes 256 --batches 1 --grid 3 3 --repeats 1",
    "training": "--size small --hidden 48 --layers 1 --lengths 96 --grid 3 3 --words 4 --attention sdpa --steps 1",
    "scores": "--items 6",
    "grpo": "--steps 1 --prompts 2 --samples 2 --decoder-steps 1",
    "batches": "--renderers flux2 --size tiny --grid 2 2 --batches 1 2 --steps 2 --tiled 64",
    "others": "--renderers sana flux --size tiny --grid 2 2 --batches 1 --steps 2 --tiled 64",
}
FULL = {
    "decoding": "--size arm-7b --batches 1 16 --grid 8 8 --repeats 1",
    "long": "--size arm-7b --batches 1 16 --grid 32 32 --repeats 1 --compile",  # a picture of 512 px a side
    "training": "--size arm-7b --lengths 4096 16384 --steps 2",
    "scores": "--items 120",
    "grpo": "--steps 3",
    "batches": "--renderers flux2 --batches 1 4",
    "others": "--renderers sana flux --batches 1",
}


def commands_of(section: str, output: Path, device: str, toy: bool) -> list[list[str]]:
    """What a section runs, one after the other."""
    sizes = {name: options.split() for name, options in (TOY if toy else FULL).items()}

    def script(file: Path, name: str, *options: str) -> list[str]:
        return [sys.executable, str(file), *options, "--output", str(output / f"{name}_{device}.json")]

    if section == "decoding":
        picture = ["--plot", str(output / f"speed_decoding_{device}.png")]
        alone = ["--without", "plain", "janus", "emu3"]
        return [
            script(SPEED / "same_tokens.py", "same_tokens"),
            script(SPEED / "decoding.py", "speed_decoding_long", *sizes["long"], *alone),
            script(SPEED / "decoding.py", "speed_decoding", *sizes["decoding"], *picture),
        ]
    if section == "training":
        return [script(SPEED / "training.py", "speed_training", *sizes["training"])]
    if section == "scores":
        return [script(GPU / "scores.py", "scores", *sizes["scores"])]
    if section == "grpo":
        return [script(SPEED / "grpo.py", "speed_grpo", *sizes["grpo"])]
    if section == "renderers":
        return [
            script(SPEED / "renderers.py", "speed_renderers_flux2", *sizes["batches"]),
            script(SPEED / "renderers.py", "speed_renderers", *sizes["others"]),
        ]
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "tests/transformers_suite"]
    return [[sys.executable, *tests]]


def run(command: list[str], seconds: float, lines: deque) -> int | None:
    """The exit status, or None where the command and all it started were killed; prints, and keeps, its output."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "RUN_SLOW": "1"}  # the latter is read by the suite
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def follow():
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())

    reader = Thread(target=follow, daemon=True)
    reader.start()
    try:
        return process.wait(timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it left running
        except ProcessLookupError:
            pass
        process.wait()
        reader.join(timeout=5)


def run_section(commands: list[list[str]], limit: float) -> dict:
    """How a section went; a command that fails leaves the next to run, one that is killed does not."""
    start, lines, steps = time.monotonic(), deque(maxlen=KEPT_LINES), []
    for command in commands:
        shown = " ".join(["python", *command[1:]])
        print(f"$ {shown}", flush=True)
        began = time.monotonic()
        status = run(command, limit - (began - start), lines)
        steps.append({"command": shown, "exit": status, "seconds": round(time.monotonic() - began, 1)})
        if status is None:
            break
    exits = [step["exit"] for step in steps]
    status = "timed out" if None in exits else "failed" if any(exits) else "ok"
    seconds = round(time.monotonic() - start, 1)
    found = {"status": status, "seconds": seconds, "limit": limit, "steps": steps}
    return found if status == "ok" else found | {"ending": list(lines)}


def limits_of(given: list[str], parser: argparse.ArgumentParser) -> dict[str, float]:
    limits = dict(LIMITS)
    for each in given:
        section, _, seconds = each.partition("=")
        if section not in LIMITS or not re.fullmatch(r"\d+(\.\d+)?", seconds):
            parser.error(f"--limit {each} must be SECTION=SECONDS, of {', '.join(LIMITS)}.")
        limits[section] = float(seconds)
    return limits


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check.sh", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--output", type=Path, help="folder (default: $OUT, or benchmarks/results; runs/check if toy)")
    parser.add_argument("--limit", action="append", default=[], metavar="SECTION=SECONDS", help="may be repeated")
    toy = os.environ.get("CHECK_TOY") == "1" or not torch.cuda.is_available()
    parser.add_argument("--toy", action="store_true", default=toy, help="tiny sizes (default without a GPU)")
    arguments = parser.parse_args()
    if unknown := {*arguments.sections} - {*LIMITS}:
        parser.error(f"{', '.join(sorted(unknown))}: no such section; there are {', '.join(LIMITS)}.")
    arguments.sections = [each for each in LIMITS if each in (arguments.sections or DEFAULT)]
    arguments.limits = limits_of(arguments.limit, parser)
    results = ROOT / "runs" / "check" if arguments.toy else ROOT / "benchmarks" / "results"
    arguments.output = (arguments.output or Path(os.environ.get("OUT") or results)).resolve()
    return arguments


def main() -> int:
    arguments = parse()
    name = card()
    arguments.output.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in VERSIONS} | {"python": sys.version.split()[0]}
    sections = {}
    for section in arguments.sections:
        print(f"\n== {section}, at most {arguments.limits[section]:g} s ==", flush=True)
        commands = commands_of(section, arguments.output, name, arguments.toy)
        sections[section] = run_section(commands, arguments.limits[section])
        fields = {"card": name, "toy": arguments.toy, "versions": versions, "sections": sections}
        write_result(arguments.output / f"check_{name}.json", **fields)
    print("\n| section | status | s | limit |\n|---|---|---|---|")
    for section, found in sections.items():
        print(f"| {section} | {found['status']} | {found['seconds']} | {found['limit']:g} |")
    return int(any(found["status"] != "ok" for found in sections.values()))


if __name__ == "__main__":
    sys.exit(main())
