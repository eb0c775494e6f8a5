"""What `from transformers_arm import *` gives, whichever extras are installed."""

import subprocess
import sys

import transformers_arm


def test_trainers_are_among_them_where_trl_is_installed():
    assert {"ArmGRPOTrainer", "ArmSFTConfig", "ArmProcessor"} <= set(transformers_arm.__all__)


def test_the_others_come_where_trl_is_missing():
    lines = (
        "import sys; sys.modules['trl'] = None",
        "from transformers_arm import *",
        "import transformers_arm",
        "print(ArmPipeline.__name__, sorted(name for name in globals() if 'GRPO' in name or 'SFT' in name))",
        "try: transformers_arm.ArmSFTTrainer",
        "except ModuleNotFoundError as error: print(error)",
    )
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-2:] == [
        "ArmPipeline []",
        "ArmSFTTrainer needs trl; install it with `pip install transformers-arm[rl]`.",
    ]
