"""Ctrl-C and SIGTERM wait while processes are started, and come then."""

import signal
import subprocess
import sys

import pytest

from transformers_arm.data.signals import starting_processes


def test_a_signal_waits_until_all_are_started():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with starting_processes():
            signal.raise_signal(signal.SIGINT)
            done.append("all")
    assert done == ["all"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_started_does_not_hear_of_ctrl_c():
    with starting_processes():
        code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still there')"
        said = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True).stdout
    assert said == "still there\n"
    assert subprocess.run([sys.executable, "-S", "-c", code], capture_output=True).returncode == -signal.SIGINT
