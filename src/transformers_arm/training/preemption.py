"""A training that a scheduler asks to end (SIGTERM) saves a checkpoint first, on all processes at the same step.

transformers' own way, `enable_jit_checkpoint`, has each process save when its own signal comes, so that several wait
for each other at different steps, and marks what is unfinished inside a folder that already has its final name. Knows
nothing about how a checkpoint is written.
"""

import logging
import signal
import threading

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

STATUS = 128 + signal.SIGTERM  # of a process that SIGTERM has ended


class PreemptionCallback(TrainerCallback):
    """Has a training that gets SIGTERM, any process of it, save a checkpoint at the end of its step, and stop there.

    While it trains, SIGTERM does nothing else, however often it comes. Where several steps learn from one generation
    (`steps_a_generation` of the arguments), it stops after the last of them. All processes ask each other after every
    step, with one number.

    Attributes:
        asked: whether this process got the signal.
        stopped: whether the training has stopped for it. Whoever trains has to end then (`training.trainer.train`
            does), with what comes after training left to the run that goes on.
    """

    def __init__(self):
        self.asked = self.stopped = False
        self._before = None  # the handler that was there

    def _ask(self, number: int, frame) -> None:
        if not self.asked:
            logger.warning("SIGTERM: a checkpoint is written at the end of this step, and the training stops.")
        self.asked = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.asked = self.stopped = False
        if threading.current_thread() is threading.main_thread():  # Python has handlers nowhere else
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_step_end(self, args, state, control, **kwargs):
        partial = PartialState()
        asked = torch.tensor(int(self.asked), device=partial.device)
        if not int(reduce(asked, "sum") if partial.num_processes > 1 else asked):
            return
        self.asked = True
        if state.global_step % getattr(args, "steps_a_generation", 1) == 0:
            control.should_save = control.should_training_stop = self.stopped = True

    def on_train_end(self, args, state, control, **kwargs):
        self.let_go()

    def let_go(self) -> None:
        """Gives the signal back to whoever had it: also for a training that fails, whose end no callback hears of."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
