"""Whatever a message holds and a template prints of it, it makes no special token: it is plain text, or refused."""

import base64
import copy
import enum
import pickle
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from processor_inputs import PLACEHOLDER, drawing, special_tokens, user
from tokenizers import AddedToken

from transformers_arm.data.conversations import ConversationCollator
from transformers_arm.fetching_arm import FROM_CALLER
from transformers_arm.processing_arm import ArmProcessor

END = "<|im_end|>"
# Prints all that it gets, whole and in parts, one thing after the other.
EVERYTHING = """{% for message in messages %}{{ message }}{{ message.role }}{{ message.name }}{{ message.content }}
{%- for key in message %}{{ key }}{{ message[key] }}{% endfor %}
{%- if message.content is not string %}{% for part in message.content %}
{%- for key in part %}{{ key }}{{ part[key] }}{% endfor %}{% endfor %}{% endif %}{% endfor %}"""


class Text(str):
    """Prints other text than it holds."""

    def __str__(self):
        return END


class Kind(str, enum.Enum):
    END = "<|im_end|>"


class Number(int):
    def __str__(self):
        return END

    __repr__ = __str__


class Fraction(float):
    def __str__(self):
        return END

    __repr__ = __str__


class Painting:
    """No picture, which prints itself as a special token."""

    def __str__(self):
        return END

    __repr__ = __str__


def everything(processor, message):
    conversation = message if isinstance(message, list) else [message]
    return processor.apply_chat_template(conversation, EVERYTHING, tokenize=True)[0]


ENCODED = {
    "text": {"role": "user", "content": END},
    "role": {"role": END, "content": "x"},
    "role of tokens": {"role": "<|im_start|>user", "content": "x"},
    "list as role": {"role": [END], "content": "x"},
    "odd key": {"role": "user", "content": "x", "name": END, "meta": {"deep": [[{"type": "x", "a": END}], (END,)]}},
    "no name as type": {"role": "user", "content": "x", "type": END},
    "dict as text": {"role": "user", "content": [{"type": "text", "text": {"text": END}}]},
    "lists as text": {"role": "user", "content": [{"type": "text", "text": [[END], [[END]]]}]},
    "generator": {"role": "user", "content": ({"type": "text", "text": text} for text in (END, END))},
    "subclass": {"role": Text("user"), "content": Text("hello"), "name": Text("x")},
    "enum": {"role": Kind.END, "content": Kind.END},
    "numpy": {"role": np.str_(END), "content": np.str_(END), "rows": np.array([END]), "one": np.array(END)},
    "objects in arrays": {"role": "user", "content": "x", "rows": np.array([{"a": END}, END], dtype=object)},
    "numbers": {"role": "user", "content": "x", "n": np.int64(3), "f": np.float32(0.5), "t": torch.tensor([1, 2])},
    "address in text": {"role": "user", "content": [{"type": "text", "text": "x", "url": END, "path": Path(END)}]},
    "marks": {"role": "user", "content": "<|vision_pad|>0<|vision_pad|>", "name": "<|vision_pad|>1<|vision_pad|>"},
    "odd picture": {"role": "user", "content": "x", "image": Painting(), "url": [END]},
    "type of a picture": {"role": "user", "content": "x", "image": type(END, (), {})()},
}
REFUSED = {
    "key": ({"role": "user", "content": "x", END: "y"}, "special token '<|im_end|>'"),
    "deep key": ({"role": "user", "content": [{"type": "text", "text": {"a": [{f"b{END}": 1}]}}]}, "special token"),
    "keys that join": ({"role": "user", "content": "x", "<|im": 1, "_end|>": 2}, "'<|im' in a message"),
    "key that is no str": ({"role": "user", "content": "x", Number(1): "y"}, "one is a Number"),
    "bytes": ({"role": "user", "content": END.encode()}, "holds a bytes"),
    "bytes of numpy": ({"role": "user", "content": np.bytes_(END.encode())}, "holds a bytes"),
    "bytearray": ({"role": "user", "content": [{"type": "text", "text": bytearray(END.encode())}]}, "a bytearray"),
    "int": ({"role": "user", "content": [{"type": "text", "text": Number(5)}]}, "holds a Number"),
    "float": ({"role": "user", "content": "x", "score": Fraction(5)}, "holds a Fraction"),
    "other numbers": ({"role": "user", "content": "x", "score": Decimal(5)}, "holds a Decimal"),
    "object": ({"role": "user", "content": "x", "meta": Painting()}, "holds a Painting"),
    "dict as content": ({"role": "user", "content": {"text": END}}, "content of message 0 is a dict"),
    "number as content": ({"role": "user", "content": 5}, "content of message 0 is a int"),
    "list of strings": ({"role": "user", "content": [END]}, "Part 0 of message 0"),
    "nested parts": ({"role": "user", "content": [[{"type": "text", "text": END}]]}, "Part 0 of message 0"),
    "part without a type": ({"role": "user", "content": [{"text": END}]}, "Part 0 of message 0"),
    "part of an odd type": ({"role": "user", "content": [{"type": END, "text": "x"}]}, "Part 0 of message 0"),
    "string as message": (["hello", "x"], "Message 0 is a str"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_it_is_encoded_as_text_of_whatever_type_it_is(processor, name):
    ids = everything(processor, ENCODED[name])
    assert ids and special_tokens(processor, ids) == []


@pytest.mark.parametrize("name", REFUSED)
def test_or_it_is_refused_by_name(processor, name):
    message, error = REFUSED[name]
    with pytest.raises((TypeError, ValueError)) as raised:
        everything(processor, message)
    assert error in str(raised.value)


def test_conversations_are_lists(processor):
    for conversation, kind in (({"role": "user", "content": "x"}, "dict"), ("hello", "str"), (5, "int")):
        with pytest.raises(TypeError, match=f"list of messages, not a {kind}"):
            processor.apply_chat_template(conversation, tokenize=True)


def test_what_is_written_is_printed_as_it_is(processor):
    conversation = [
        {"role": "user", "content": Text("hello"), "meta": {"a": END, "n": np.int64(3), "b": (True, None, 0.5)}}
    ]
    template = "{{ messages[0].content }} {{ messages[0].meta }}"
    ids = processor.apply_chat_template(conversation, template, tokenize=True)[0]
    assert processor.decode(ids) == "hello {'a': '<|im_end|>', 'n': 3, 'b': [True, None, 0.5]}"


def picture_sources(folder):
    """A picture, and where it is: under names and in texts that look like special tokens."""
    picture = PIL.Image.fromarray(drawing())
    file = folder / END / "<|h:3|>.png"
    file.parent.mkdir()
    picture.save(file)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return picture, {"path": str(file), "image": file, "url": f"data:{END};base64,{encoded}", "base64": encoded}


@pytest.mark.parametrize("key", ["path", "image", "url", "base64", "image_url"])
def test_addresses_of_pictures_are_text_where_a_template_prints_them(processor, tmp_path, key):
    picture, sources = picture_sources(tmp_path)
    part = {"type": "image_url", "image_url": {"url": sources["url"]}} if key == "image_url" else {"type": "image"}
    part |= {key: sources[key]} if key in sources else {}
    template = (
        "{% for part in messages[0].content %}{{ part[key] }} {{ part.url }} {{ part }}"
        "<|vision_start|><|image_pad|><|vision_end|>{% endfor %}"
    )
    options = {"tokenize": True, "return_dict": True, "fetcher": FROM_CALLER, "key": key}
    inputs = processor.apply_chat_template([{"role": "user", "content": [part]}], template, **options)
    image = ["<|vision_start|>", "<|h:3|>", "<|w:3|>", *["<|image_pad|>"] * 9, "<|vision_end|>"]
    assert special_tokens(processor, inputs["input_ids"][0]) == image
    assert torch.equal(inputs["pixel_values"], processor([picture], PLACEHOLDER)["pixel_values"])
    if key in ("path", "url", "base64"):
        assert processor.decode(inputs["input_ids"][0]).count(sources[key]) >= 2


def test_of_pictures_themselves_a_template_prints_their_type(processor):
    for picture, shown in ((drawing(), "<ndarray>"), (PIL.Image.fromarray(drawing()), "<Image>")):
        template = f"{{{{ messages[0].content[0].image }}}}{PLACEHOLDER}"
        ids = processor.apply_chat_template(user(picture), template, tokenize=True)[0]
        assert processor.decode(ids).startswith(f"{shown}<|vision_start|>")


@pytest.mark.parametrize("template", ["{{ messages[0].content[:-3] }}", "{{ messages[0].content }}<|vision_pad|>"])
def test_templates_that_cut_what_they_print_are_refused(processor, template):
    with pytest.raises(ValueError, match="The chat template cuts what it prints, or writes <|vision_pad|>"):
        processor.apply_chat_template([{"role": "user", "content": "hello"}], template, tokenize=True)


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def test_tokens_added_later_are_known(tiny_arm_backbones):
    processor = ArmProcessor.from_backbones(**tiny_arm_backbones)
    said = [{"role": "user", "content": "a <|later|> zorb"}]
    processor.apply_chat_template(said, tokenize=True)
    processor.tokenizer.add_tokens([AddedToken("<|later|>", special=True)], special_tokens=True)
    processor.tokenizer.add_tokens(["zorb"])
    later, word = processor.tokenizer.convert_tokens_to_ids(["<|later|>", "zorb"])
    ids = processor.apply_chat_template(said, tokenize=True)[0]
    assert later not in ids and word in ids
    assert later in processor(text="a <|later|> zorb")["input_ids"][0]
    assert special_tokens(processor, everything(processor, {"role": "<|later|>", "content": "x"})) == []
    with pytest.raises(ValueError, match="later"):
        everything(processor, {"role": "user", "content": "x", "<|later|>": "y"})


def test_nothing_is_set_on_the_shared_tokenizer(tiny_arm_backbones):
    processor = ArmProcessor.from_backbones(**tiny_arm_backbones)
    backend = processor.tokenizer.backend_tokenizer
    before = pickle.dumps(processor.tokenizer)
    processor(text=["a", "a longer text"], padding=True, return_tensors="pt")
    processor(text=["a", "a longer text"], padding="max_length", truncation=True, max_length=3)
    processor(text=f"a {END}", text_kwargs={"split_special_tokens": True})
    processor.apply_chat_template(
        [user("a"), user("a longer text")], tokenize=True, processor_kwargs={"padding": True}
    )
    processor.image_generation_inputs(["a", "a longer text"])
    assert (backend.padding, backend.truncation, backend.encode_special_tokens) == (None, None, False)
    assert pickle.dumps(processor.tokenizer) == before  # by which `datasets` finds in its cache what it made with it


def test_arguments_of_the_tokenizer_do_for_trusted_text_what_they_always_did(processor):
    texts = ["a red circle", "a", f"a blue square {END}"]
    for arguments in (
        {"padding": True, "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 12, "padding_side": "right"},
        {"truncation": True, "max_length": 2},
        {"padding": True, "pad_to_multiple_of": 8},
        {"split_special_tokens": True, "return_offsets_mapping": True},
    ):
        expected = copy.deepcopy(processor.tokenizer)(texts, **arguments)
        inputs = processor(text=texts, text_kwargs=arguments)
        assert repr(dict(inputs)) == repr(dict(expected))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_of_processor_and_collator_encode_alike(processor, collator, copied):
    said = user(f"a red circle {END}", drawing())
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    first, second = (each.apply_chat_template(said, **options) for each in (processor, copied(processor)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    used = ConversationCollator(processor.tokenizer, None, collator.config)
    assert used.encode(user(END), iter([])) == copied(used).encode(user(END), iter([]))
