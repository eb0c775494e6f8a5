"""Two processes on the CPU that know each other, as torchrun starts them, on one node or each on its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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
        with open(folder / f"output-{rank}.txt", "w") as output:
            running.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        codes = [each.wait(seconds) for each in running]
    except subprocess.TimeoutExpired:
        codes = ["too late"]
    finally:
        for each in running:
            each.kill()
    assert codes == [0, 0], "\n".join((folder / f"output-{rank}.txt").read_text()[-3000:] for rank in (0, 1))
