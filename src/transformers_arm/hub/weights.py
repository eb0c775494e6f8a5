"""Whether what lies in a folder loads, and whether its weights are those of its models: named as loaders look for
them, whole, in number and shapes what the configurations make of them, and finite.

Models are made on the meta device and weights are read tensor by tensor: no model is ever in memory. Knows nothing
about what models can do, which is tried in `trial`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_WEIGHTS
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the other name asks for torchvision
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_WEIGHTS

from ..configuration_arm import ArmConfig
from ..loading_arm import class_named
from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq import ArmVQModel
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from .card import CARD, base_models
from .files import PIPELINE, WEIGHTS, read_json

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OUR_MODELS = {model.__name__: model for model in (ArmForCausalLM, ArmVQModel, ArmVQForPreTraining)}
LOADERS = {
    "generation_config.json": GenerationConfig,
    "preprocessor_config.json": AutoImageProcessor,
    "processor_config.json": AutoProcessor,
    "tokenizer_config.json": AutoTokenizer,
}
PACKAGE = __package__.partition(".")[0]
LIBRARIES = ("diffusers", "transformers", PACKAGE)
AT_ONCE = 2**24  # numbers of a tensor that are looked at together


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Makes whatever a loader raises a ValueError that names what does not load."""
    try:
        yield
    except Exception as error:  # each library has its own ways to say so
        raise ValueError(f"{what} does not load: {error}") from error


def tensor_shapes(folder: Path, weights_name: str) -> dict[str, list[int]]:
    """Names and shapes of all tensors in a folder's safetensors files, from their heads; they must be whole.

    Args:
        folder: of one model.
        weights_name: the file that its loader looks for; shards go by its index, `{weights_name}.index.json`.

    Raises:
        ValueError: a file is cut off or is none, none of its loader's, or not what the index says.
    """
    shapes, places = {}, {}
    files, indices = sorted(folder.glob(f"*{WEIGHTS}")), sorted(folder.glob(f"*{WEIGHTS}.index.json"))
    names = [file.name for file in files]
    if len(files) > 1 and not indices:
        raise ValueError(f"{folder} holds {', '.join(names)} and no index; keep one of them.")
    if wrong := [index.name for index in indices if index.name != f"{weights_name}.index.json"]:
        raise ValueError(f"{folder} holds {wrong[0]}, but its loader looks for {weights_name}.index.json; rename it.")
    if files and not indices and names != [weights_name]:
        raise ValueError(f"{folder} holds {names[0]}, but its loader looks for {weights_name}; rename it.")
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}
                places |= dict.fromkeys(opened.keys(), file.name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} is no whole safetensors file ({error}); save or download it again.") from error
    for index in indices:
        if read_json(index).get("weight_map") != places:
            raise ValueError(f"{index} is not the index of the {WEIGHTS} files beside it; save the model again.")
    if indices and weights_name in names:
        raise ValueError(f"{folder} holds {weights_name} and {indices[0].name}; keep one of them.")
    return shapes


def check_tensors(folder: Path, weights_name: str, expected: dict[str, torch.Tensor]) -> None:
    """Raises ValueError if a folder's tensors are not exactly those of a model, on the meta device, in its shapes."""
    shapes = tensor_shapes(folder, weights_name)
    missing, unexpected = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
    wrong = [name for name in expected if name in shapes and shapes[name] != list(expected[name].shape)]
    refuse_tensors(folder, missing, unexpected, wrong)


def refuse_tensors(folder: Path, missing: Iterable[str], unexpected: Iterable[str], wrong: Iterable[str]) -> None:
    """Raises ValueError if there are any such tensors, and names the first ones."""
    found = {"lack": missing, "have beyond the model": unexpected, "have in other shapes": wrong}
    said = [f"{what} {len(names)} tensors, {sorted(names)[0]} first" for what, names in found.items() if names]
    if said:
        raise ValueError(
            f"The weights in {folder} {'; they '.join(said)}. Save or download model and config.json together again."
        )


def check_values(files: Mapping[str, Path]) -> None:
    """Raises ValueError for tensors in safetensors files that hold NaN or infinities, or models that are all zeros."""
    models = defaultdict(list)
    for name, file in files.items():
        if file.suffix == WEIGHTS:
            models[file.parent].append((name, file))
    for folder, weights in models.items():
        if not any([has_values(name, file) for name, file in weights]):  # a list: every file is looked at
            raise ValueError(f"All weights in {folder} are zero; save the model again.")


def has_values(name: str, file: Path) -> bool:
    """Whether anything in a safetensors file is not zero; raises ValueError if something is NaN or infinite."""
    found = False
    with safe_open(file, "pt") as opened:
        for key in opened.keys():
            tensor, bad = opened.get_tensor(key), 0
            for part in tensor.flatten().split(AT_ONCE):
                part = part.float() if part.element_size() == 1 else part  # 8 bits have few operations
                found = found or bool(part.any())
                bad += int((~part.isfinite()).sum())
            if bad:
                raise ValueError(
                    f"{name} holds {bad:,} numbers in {key}, of {tensor.numel():,}, that are NaN or infinite: what is "
                    "computed with them is lost. Publish a checkpoint from before they came about."
                )
    return found


def check_models(folder: Path, files: dict[str, Path]) -> None:
    """Loads all that lies in a folder, at any depth, but for the weights: those must fit, tensor by tensor.

    Raises:
        ValueError: something does not load, or weights do not fit, are not whole or are of no model.
    """
    checked = {folder} if ADAPTER in files else set()  # `check_adapter` does
    for name, file in files.items():
        if file.name in LOADERS:
            with loading(name):
                LOADERS[file.name].from_pretrained(file.parent, trust_remote_code=False)
        elif file.name == PIPELINE:
            checked |= set(check_pipeline(file))
        elif file.name == "config.json" and "model_type" in read_json(file):
            check_transformers_model(file)
            checked.add(file.parent)
    for name, file in files.items():
        if file.suffix == WEIGHTS and file.parent not in checked:
            raise ValueError(f"{name} belongs to no model: there is no config.json for it; add it, or remove both.")


def check_transformers_model(config: Path) -> None:
    """Raises ValueError if the weights beside a config.json are not exactly those of the model it tells."""
    folder = config.parent
    tensor_shapes(folder, TRANSFORMERS_WEIGHTS)
    with loading(str(folder)):
        name = (read_json(config).get("architectures") or ["no class"])[0]
        model_class = OUR_MODELS.get(name) or getattr(transformers, name)
        keywords = {"device_map": "meta", "ignore_mismatched_sizes": True, "use_safetensors": True}
        _, info = model_class.from_pretrained(folder, output_loading_info=True, **keywords)
    wrong = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    refuse_tensors(folder, info["missing_keys"], info["unexpected_keys"], wrong)


def check_pipeline(index: Path) -> Iterator[Path]:
    """Loads the components of a diffusers pipeline, and yields the folders whose weights it has checked.

    Raises:
        ValueError: a component is missing, is none of this pipeline's, does not load, or is of a library that is not
            ours to import.
    """
    content = read_json(index)
    with loading(str(index)):
        pipeline = class_named(content)
        parameters = signature(getattr(import_module(PACKAGE), pipeline, None) or getattr(diffusers, pipeline))
    components = {  # the rest are its settings, and components that it does without
        name: value
        for name, value in content.items()
        if name != "_class_name"
        and isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, str) for each in value)
    }
    needed = {name for name, parameter in parameters.parameters.items() if parameter.default is parameter.empty}
    if wrong := sorted({*(needed - components.keys()), *(components.keys() - parameters.parameters.keys())}):
        raise ValueError(
            f"The components {', '.join(sorted(components)) or 'none'} in {index} are not those of {pipeline}: see "
            f"{', '.join(wrong)}. Save the pipeline again."
        )
    for name, (library, class_name) in components.items():
        if library.partition(".")[0] not in LIBRARIES:
            raise ValueError(f"{index} takes {name} from {library!r}, which is none of {', '.join(LIBRARIES)}.")
        part = index.parent / name
        with loading(str(part)):
            component = getattr(import_module(library), class_name)
            if issubclass(component, diffusers.DiffusionPipeline):  # whose folder could name any code
                raise ValueError(f"{class_name} is a pipeline, and no component of one.")
            if issubclass(component, diffusers.ModelMixin):
                with torch.device("meta"):
                    model = component.from_config(component.load_config(part))
            elif not issubclass(component, transformers.PreTrainedModel):  # those: `check_transformers_model`
                component.from_pretrained(part)
                continue
        if issubclass(component, diffusers.ModelMixin):
            check_tensors(part, DIFFUSERS_WEIGHTS, model.state_dict())
            yield part


def check_adapter(folder: Path, base: str, token: str | None) -> None:
    """Raises ValueError if an adapter is not exactly what its configuration makes of the ARM `base`."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    with loading(f"The adapter {folder} on {base}"):
        found = PreTrainedConfig.get_config_dict(base, token=token)[0].get("model_type")
        if found != ArmConfig.model_type:
            raise ValueError(f"{base} holds a {found!r} model, and no ARM.")
        with torch.device("meta"):
            model = ArmForCausalLM(ArmConfig.from_pretrained(base, token=token))
            adapted = PeftModel(model, PeftConfig.from_pretrained(folder))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_tensors(folder, ADAPTER_WEIGHTS, expected)


def adapter_base(folder: Path, card: ModelCard) -> tuple[str, str]:
    """Where the base of an adapter is, a folder or a Hub id, and the Hub id that its configuration will name.

    Raises:
        ValueError: the adapter names none, or another one than the card.
    """
    base, named = read_json(folder / ADAPTER).get("base_model_name_or_path"), base_models(card.data)
    if not base or len(named) != 1:
        raise ValueError(f"{ADAPTER} and {CARD} must name one base, not {base!r} and {', '.join(named) or 'none'}.")
    if base != named[0] and not Path(base).is_dir():
        raise ValueError(f"{ADAPTER} names the base {base}, {CARD} the base_model {named[0]}; they must be one.")
    return base, named[0]
