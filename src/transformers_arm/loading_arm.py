"""How models are loaded: whole checkpoints only, never pickles, and everything that a repo holds from one and the same
commit; and where they compute once they are.

Knows nothing about what models are made of.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")  # of `from_pretrained`, where a repo is read from


def class_named(index: dict) -> str | None:
    """The class that the `model_index.json` of a diffusers pipeline names. Where its code lies beside it, a
    file is named before it."""
    named = index.get("_class_name")
    return named[-1] if isinstance(named, list | tuple) else named


def check_parts_are_there(folder: str | os.PathLike, parts: Iterable[str]) -> None:
    """Raises a FileNotFoundError if a folder here lacks a part's; diffusers' own error does not say which it is."""
    missing = [part for part in parts if not os.path.isdir(os.path.join(folder, part))]
    if missing and os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} lacks the folders {', '.join(missing)}; copy or download it again.")


def damaged_file(folder: str | os.PathLike) -> str:
    """The first file of weights in a folder that cannot be opened, for a message; of a repo on the Hub all of it."""
    for file in sorted(Path(folder).rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return str(file)
    return f"What {folder} has of weights"


class SafetensorsOnlyMixin:
    """Models and diffusers pipelines whose weights are read from safetensors files and from nothing else.

    transformers and diffusers would take pickles where there are no others, which can run the code of who made them.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors: bool | None = True, **kwargs):
        """The library's own `from_pretrained`, also for the parts of a pipeline.

        Raises:
            ValueError: `use_safetensors` is False.
            SafetensorError: a file of weights is damaged; says which.
        """
        if use_safetensors is False:
            raise ValueError(
                f"use_safetensors=False would unpickle {pretrained_model_name_or_path}, which can run any code; leave "
                "it out, and convert pickled weights to safetensors first where you trust them."
            )
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)
        except SafetensorError as error:
            where = damaged_file(pretrained_model_name_or_path)
            raise SafetensorError(f"{where} is damaged or cut short: {error}. Copy or download it again.") from error


class CompleteCheckpointMixin(SafetensorsOnlyMixin):
    """Refuses checkpoints that lack tensors; transformers would only warn, and draw those at random."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """`PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: the checkpoint lacks tensors. Not if the caller asks for the loading info, which lists them, or
                brings the tensors as `state_dict`.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing and not output_loading_info and kwargs.get("state_dict") is None:
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} of the tensors of {cls.__name__}: {named}. "
                "Copy the checkpoint again, or load the class it was saved from; output_loading_info=True loads it "
                "all the same."
            )
        return (model, info) if output_loading_info else model


class HubOptionsMixin:
    """Models that remember where they were loaded from.

    `hub_options` are those of `HUB_OPTIONS` that the model was loaded with, `revision` being the commit: what a
    pipeline loads from the same repo later, the detokenizer, must be of the same one, wherever the branch is by then.
    """

    hub_options = {}

    def __getstate__(self) -> dict:
        """What is pickled and copied: all but the token, which is not for whoever gets the model."""
        options = {name: value for name, value in self.hub_options.items() if name != "token"}
        return {**super().__getstate__(), "hub_options": options}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        name = pretrained_model_name_or_path
        hub = {each: kwargs[each] for each in HUB_OPTIONS if kwargs.get(each) is not None}  # token=False sends none
        if name is not None and not os.path.isdir(name):
            config = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False, **hub)
            if commit := extract_commit_hash(config, None):
                kwargs["revision"] = hub["revision"] = commit
        loaded = super().from_pretrained(name, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.name_or_path != str(name):  # an adapter's repo: the other parts are its base's, of another commit
            hub.pop("revision", None)
        model.hub_options = hub
        return loaded


def stated_device(module: nn.Module) -> torch.device | None:
    """Where accelerate's hook on a module lets it compute; None without one, or if it leaves that to its parts."""
    hook = getattr(module, "_hf_hook", None)
    stated = (getattr(each, "execution_device", None) for each in getattr(hook, "hooks", [hook]))
    # An empty tensor says which of a kind is meant: "cuda" is one of several, and "cpu:0" the only one.
    return next((torch.empty(0, device=device).device for device in stated if device is not None), None)


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes, so where its inputs belong: the one rule for devices.

    Hooks say it (accelerate's, of device maps and offloading), or else the first parameter that is there. One that is
    offloaded stands on "meta" until its own module's forward, and says nothing; nor may others read it. So what is
    made takes its device from inputs, what comes in goes here, and parts are called, not read: `under_hooks` and
    `hooked` are for those that cannot be.
    """
    for part in module.modules():
        own = (parameter.device for parameter in part.parameters(recurse=False))
        if (device := stated_device(part) or next(own, None)) is not None and device.type != "meta":
            return device
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def is_placed(module: nn.Module) -> bool:
    """Whether hooks, of a device map or of offloading, say where a module's parts compute: it must not be moved."""
    return any(stated_device(part) is not None for part in module.modules())


@contextmanager
def hooked(module: nn.Module):
    """Has a module's own weights where it computes, for a parent that reads them outside of the module's forward."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)
    try:
        yield
    finally:
        if hook is not None:
            hook.post_forward(module, None)


def under_hooks(method: Callable) -> Callable:
    """Runs a module's method as its hook runs its forward: inputs and weights are where it computes."""

    @wraps(method)
    def run(self, *args, **kwargs):
        hook = getattr(self, "_hf_hook", None)
        if hook is None:
            return method(self, *args, **kwargs)
        args, kwargs = hook.pre_forward(self, *args, **kwargs)
        return hook.post_forward(self, method(self, *args, **kwargs))

    return run


class ExecutionDeviceMixin:
    """Models whose `device` is their `execution_device`, for all that asks, transformers and trl too."""

    @property
    def device(self) -> torch.device:
        """Where the model computes and its inputs belong, also where a device map or offloading places it."""
        return execution_device(self)

    @property
    def hf_device_map(self) -> dict:
        """What a device map put where, the disk last: transformers' pipelines send inputs to the first place."""
        if "hf_device_map" not in vars(self):
            raise AttributeError("No device map placed this model.")
        return dict(sorted(vars(self)["hf_device_map"].items(), key=lambda place: place[1] == "disk"))

    @hf_device_map.setter
    def hf_device_map(self, places: dict) -> None:
        vars(self)["hf_device_map"] = places
