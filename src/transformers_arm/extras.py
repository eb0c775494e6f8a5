"""The extras of this package, and the one sentence for what is missing of them.

Whatever needs an extra says so before its work starts: it calls `require` first, and imports then.
"""

from importlib.util import find_spec

EXTRAS = {
    "train": ("accelerate", "docstring_parser", "peft", "pydantic", "yaml"),
    "rl": ("accelerate", "docstring_parser", "peft", "pydantic", "yaml", "trl"),
    "qlora": ("peft", "bitsandbytes"),
    "metrics": ("skimage", "torchmetrics"),
    "emoji": ("resvg_py",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
    "app": ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "gradio"),
}
"""Modules that each extra of pyproject.toml brings and this package imports."""


class MissingExtra(ModuleNotFoundError):
    """Something needs an extra of this package that is not installed."""


def require(what: str, extra: str, *modules: str) -> None:
    """Raises MissingExtra if a module is not installed that an extra brings: `what` needs it.

    Args:
        what: what needs it, as a sentence begins with it, such as "FID".
        extra: one of `EXTRAS`.
        modules: which of the extra's; all, unless some are named.
    """
    for module in modules or EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtra(
                f"{what} needs {module}; install it with `pip install transformers-arm[{extra}]`.", name=module
            )
