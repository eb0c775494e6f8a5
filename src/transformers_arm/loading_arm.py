"""How models are loaded: whole checkpoints only, and everything that a repo holds from one and the same commit.

Knows nothing about what models are made of.
"""

import os

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")  # of `from_pretrained`, where a repo is read from


class CompleteCheckpointMixin:
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
        model.hub_options = hub
        return loaded
