"""What benchmarks of speed share: clocks, the memory's bandwidth and products measured on the spot, random models."""

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import heads
import torch


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def card() -> str:
    """What is measured on, for file names: `nvidia_h200`, or `cpu`."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return re.sub(r"\W+", "_", name.lower())


def now() -> float:
    """Seconds: of the wall, or on a CPU with one thread of this process, so that other jobs are not measured."""
    alone = torch.cuda.is_available() or torch.get_num_threads() == 1
    return heads.now() if alone else time.perf_counter()


def seconds_of(call: Callable) -> float:
    start = now()
    call()
    return now() - start


def alternating(calls: Mapping[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, in turns."""
    rounds = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: [each[name] for each in rounds] for name in calls}


def copy_bandwidth(gib: float | None = None, repeats: int = 5) -> float:
    """Bytes a second that a large copy within the device reads and writes."""
    gib = (4 if torch.cuda.is_available() else 0.25) if gib is None else gib
    source = torch.zeros(int(gib * 2**30), dtype=torch.uint8, device=device())
    target = torch.ones_like(source)
    times = alternating({"copy": lambda: target.copy_(source)}, 1 + repeats)["copy"]
    return 2 * source.numel() / statistics.median(times[1:])  # the first is a warm-up


def product_rate(dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> float:
    """Floating-point operations a second of one large matrix product."""
    size = (8192 if torch.cuda.is_available() else 1024) if size is None else size
    left, right = (torch.randn(size, size, dtype=dtype, device=device()) for _ in range(2))
    times = alternating({"product": lambda: left @ right}, 1 + repeats)["product"]
    return 2 * size**3 / statistics.median(times[1:])  # the first is a warm-up


def replayed(call: Callable) -> Callable:
    """The call as a CUDA graph, so that its launches take no time; on a CPU, itself."""
    if not torch.cuda.is_available():
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return lambda kept=call: graph.replay()  # the call keeps the tensors that the graph reads


def products(weights: Sequence[torch.Tensor], rows: int) -> Callable:
    """A call that multiplies each weight [out, in] with `rows` inputs."""
    inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(weight) for weight in weights}

    @torch.inference_mode()
    def multiply():
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return replayed(multiply)


def random_model(make: Callable[[], torch.nn.Module], dtype: torch.dtype, where: str | None = None) -> torch.nn.Module:
    """A model made on the device, with weights that keep activations finite: norms are ones, matrices small."""
    from transformers.initialization import no_init_weights  # what only measures starts without it

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(where or device()), no_init_weights():
            model = make()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(0 if name.endswith("bias") else 1)
    return model.eval()
