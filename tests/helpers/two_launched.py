"""Trainings in two CPU processes, launched as documented; `fsdp_on_cpu.py` alone makes accelerate shard there."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from transformers_arm.cli.shell import TRACEBACK

ROOT = Path(__file__).parents[2]
ON_CPU = ROOT / "tests" / "helpers" / "fsdp_on_cpu.py"


def launched(recipe, *overrides, trainer="pretrain", by="fsdp2", precision="no", before="", seconds=300, options=()):
    """Trains by a recipe in two processes: how that ended, and what they wrote.

    Args:
        by: what shards: a configuration of accelerate, or None.
        before: Python that each process runs first.
        options: of accelerate's launcher, in place of what its configuration says.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = Path(recipe["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "before.py").write_text(f"{before}\nimport runpy, sys\nsys.argv.pop(0)\n" + RUN)
    script = [str(folder / "before.py"), str(ROOT / "trainers" / f"{trainer}.py")]
    command = [sys.executable, "-m"]
    if by is not None:
        config = ["--config_file", f"trainers/accelerate/{by}.yaml"]
        if by == "fsdp2":
            config += ["--mixed_precision", precision, *options]
            script.insert(0, str(ON_CPU))
        command += ["accelerate.commands.launch", *config, "--num_processes", "2", "--main_process_port", port]
    else:
        command += ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    command += [*script, "--config", str(folder / "recipe.yaml"), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", TRACEBACK: "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


RUN = 'runpy.run_path(sys.argv[0], run_name="__main__")\n'


def train(*args, **kwargs):
    ended = launched(*args, **kwargs)
    assert ended.returncode == 0, ended.stderr[-5000:]
    return ended
