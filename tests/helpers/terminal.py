"""A process at a pseudo-terminal, which is typed to and read as by a person."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time


class Terminal:
    """Runs a command whose standard streams are a terminal of 24 lines of 80 characters, unless they are stated.

    Attributes:
        process: its `Popen`; it is killed at the end if it still runs.
        shown: all that the terminal has shown, as text.
    """

    def __init__(self, command: list[str], **streams):
        self.descriptor, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        streams = {"stdin": inside, "stdout": inside, "stderr": inside, **streams}
        # A terminal sends Ctrl-C to whom it controls: the first that opens it, and leads a session of its own.
        control = ["sh", "-c", f'exec 3<{os.ttyname(inside)}; exec "$@"', "sh"]
        environment = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen([*control, *command], env=environment, start_new_session=True, **streams)
        os.close(inside)
        self.blocks, self.place = [], 0
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with open(self.descriptor, "rb", buffering=0, closefd=False) as terminal:
            try:
                while block := terminal.read(4096):
                    self.blocks.append(block)
            except OSError:  # Linux says so when all who wrote are gone
                pass

    @property
    def shown(self) -> str:
        return b"".join(self.blocks).decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, text: str, seconds: float = 300.0) -> str:
        """What is shown up to a text, from where the last call ended; fails if that does not come."""
        begun, deadline = self.place, time.monotonic() + seconds
        while (found := self.shown.find(text, begun)) < 0:
            assert self.reader.is_alive() and time.monotonic() < deadline, f"no {text!r} in {self.shown[begun:]!r}"
            time.sleep(0.02)
        self.place = found + len(text)
        return self.shown[begun : self.place]

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        os.close(self.descriptor)
