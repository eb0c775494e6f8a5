"""What is no body of a request is refused at once, and in words of HTTP and JSON."""

import json

import pytest
from arm_server import url_of
from pipeline_requests import picture

ROUTES = ["/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"]
BODY = {"prompt": "make it red", "image": url_of(picture())}


def refused(server, path, body, status=400, **headers):
    got, _, answer = server.send("POST", path, body, {name.replace("_", "-"): each for name, each in headers.items()})
    error = json.loads(answer)["error"]
    assert got == status, error
    inside = ("pydantic", "instance of", "Reference", "ImageEdit", "str:", "None", "True", "False", "python")
    assert not [word for word in inside if word in str([error["param"] or "", error["message"]])], error
    return error


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_says_that_it_is_json(server, path, kind):
    error = refused(server, path, json.dumps(BODY).encode(), 415, Content_Type=kind)
    assert "application/json" in error["message"] and "Content-Type" in error["message"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", [b"", b"{bad", b"\xff", b"[" * 10_000, b'{"seed": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_is_called_so(server, path, body):
    error = refused(server, path, body)
    assert (error["code"], error["param"]) == ("invalid_json", None) and "no JSON" in error["message"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", [b"[]", b"null", b'"a"', b"3"])
def test_json_that_is_no_object_is_called_so(server, path, body):
    assert refused(server, path, body)["message"] == "The body: it must be a JSON object."


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"messages": [' + b"1," * 900_000 + b"1]}", id="elements"),
        pytest.param(b'{"image": ' + b"[" * 900_000 + b"]" * 900_000 + b"}", id="depth"),
        pytest.param(json.dumps({str(number): 1 for number in range(100_000)}).encode(), id="fields"),
    ],
)
def test_bodies_of_very_many_pieces_are_not_taken_apart(server, path, body):
    assert "65,536" in refused(server, path, body, 413)["message"]


@pytest.mark.parametrize(
    ("fields", "parameter", "match"),
    [
        ({"image": 5}, "image", "a data URL, or a list of them"),
        ({"image": [5]}, "image.0", "valid string"),
        ({"image": [url_of(picture())] * 17}, "image", "at most 16"),
        ({"images": ["x"]}, "images.0", "a JSON object"),
        ({"images": [{"image_url": "x"}]}, "images.0.image_url", "cannot be opened"),
        ({"mask": 5}, "mask", "a JSON object"),
        ({"stream": "maybe"}, "stream", "boolean"),
        ({"user": 5}, "user", "valid string"),
    ],
)
def test_fields_of_edits_are_called_as_the_request_calls_them(server, fields, parameter, match):
    error = refused(server, "/v1/images/edits", json.dumps(BODY | fields).encode())
    assert error["param"] == parameter and match in error["message"]


def form(*parts):
    pieces = [f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n' for name, file, _ in parts]
    values = [value if isinstance(value, bytes) else value.encode() for _, _, value in parts]
    return b"".join(head.encode() + value + b"\r\n" for head, value in zip(pieces, values, strict=True)) + b"--b--"


FILE = '; filename="a.png"'
FORM = {"Content_Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("parts", "parameter", "match"),
    [
        ([("prompt", "", "a"), ("prompt", "", "b")], "prompt", "given twice"),
        ([("prompt", "", "a"), ("prompt", FILE, "b")], "prompt", "no file of an edit"),
        ([("prompt", "", "a")], "image", "0 pictures are given; send 1 to 16"),
        ([("prompt", "", "a"), ("images", "", "b")], "images", "valid list"),
        ([(str(number), "", "a") for number in range(101)], None, "fields"),
    ],
)
def test_fields_of_forms_are_called_as_the_request_calls_them(server, parts, parameter, match):
    error = refused(server, "/v1/images/edits", form(*parts), **FORM)
    assert error["param"] == parameter and match in error["message"]


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b; charset=undefined", "multipart/form-data"])
def test_forms_that_cannot_be_read_are_called_so(server, kind):
    assert refused(server, "/v1/images/edits", form(("prompt", "", "a")), Content_Type=kind)["code"] == "invalid_form"


@pytest.mark.parametrize(
    "body", [b"garbage", b"--b\r\ngarbage", b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--"]
)
def test_what_is_no_form_is_called_so(server, body):
    assert refused(server, "/v1/images/edits", body, **FORM)["code"] in ("invalid_form", "missing_required_parameter")


def test_names_that_are_no_text_or_very_long_are_told_in_short(server):
    name = r"\ud800" * 2
    parts = form((name, "", "a"), (name, "", "b"))
    error = refused(server, "/v1/images/edits", parts, Content_Type=FORM["Content_Type"] + "; charset=unicode_escape")
    assert error["param"] == "??" and "?? is given twice" in error["message"]
    long = json.dumps({"a" * 1_000_000: 1, "prompt": "a"}).encode()
    for path in ROUTES:
        error = refused(server, path, long)
        assert len(error["param"]) < 100 and len(error["message"]) < 200
    error = refused(server, ROUTES[0], json.dumps({"prompt": "a", "model": "b" * 1_000_000}).encode(), 404)
    assert len(error["message"]) < 200


@pytest.mark.parametrize("path", ROUTES)
def test_json_may_begin_with_the_mark_of_utf_8(server, path):
    assert refused(server, path, b"\xef\xbb\xbf{}")["code"] in ("missing_required_parameter", "invalid_value")


def test_pictures_of_forms_may_be_text(server):
    large = url_of(picture(700, 700))
    assert len(large) > 2**20
    body = form(("prompt", "", "make it red"), ("image", "", large), ("seed", "", "1"))
    status, _, answer = server.send("POST", "/v1/images/edits", body, {"Content-Type": FORM["Content_Type"]})
    assert status == 200 and json.loads(answer)["size"] == "700x700"
