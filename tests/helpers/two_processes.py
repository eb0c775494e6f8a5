"""Two processes on the CPU that know each other, as torchrun starts them, on one node or each on its own."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

ARM_TINY = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"


def run_two_processes(script: str, folder: Path, nodes: int = 1, seconds: float = 240) -> None:
    """Runs `script` with arm-tiny's folder, `folder` and the rank as arguments; what each prints goes to
    `folder`/output-<rank>.txt.

    Raises:
        AssertionError: one fails, or takes longer; both have ended then.
    """
    (folder / "script.py").write_text(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in (0, 1):
        ranks = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank % (2 // nodes), "LOCAL_WORLD_SIZE": 2 // nodes}
        environment = os.environ | {name: str(value) for name, value in ranks.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(folder / "script.py"), str(ARM_TINY), str(folder), str(rank)]
        # Not into files: a process may be about to find out what it does when it cannot write any.
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    stop = Timer(seconds, lambda: [each.kill() for each in running])
    stop.start()
    try:
        with ThreadPoolExecutor() as threads:
            outputs = list(threads.map(lambda process: process.communicate()[0], running))
    finally:
        stop.cancel()
    for rank, output in enumerate(outputs):
        (folder / f"output-{rank}.txt").write_text(output)
    assert [each.returncode for each in running] == [0, 0], "\n".join(output[-3000:] for output in outputs)
