"""What is hidden in a text, and what stays to be read."""

import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest

from transformers_arm.rewards.credentials import Address, without_credentials

WEB = "http:" + "//"
SECRET = "k&y \"é\\'/+="


@pytest.mark.parametrize(
    "write",
    [
        str,
        quote,
        quote_plus,
        lambda text: quote(text, safe=""),
        lambda text: quote(quote(text, safe=""), safe=""),
        lambda text: quote(text, safe="").lower(),
        lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
        json.dumps,
        repr,
        html.escape,
        lambda text: html.escape(text, quote=False),
    ],
)
def test_a_secret_is_found_however_it_is_written(write):
    written = f"before {write(SECRET)} after"
    shown = without_credentials(written, [SECRET])
    assert "<hidden>" in shown and "k" not in shown and "y" not in shown
    assert shown.startswith("before ") and shown.endswith(" after")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at {WEB}jo:pw@host:1/v1", f"at {WEB}host:1/v1"),
        (f"at '{WEB.upper()}jo@host/v1?key=1&b=2'", f"at '{WEB.upper()}host/v1?<hidden>'"),
        (f"ws://a:b@c@host/x and {WEB}d:e@f", f"ws://host/x and {WEB}f"),
        (f"is it {WEB}host/v1? Yes: jo@host.", f"is it {WEB}host/v1? Yes: jo@host."),
        ("400 of 500", "400 of 500"),
    ],
)
def test_addresses(text, shown):
    assert without_credentials(text) == shown


def test_short_secrets_are_found_between_words_only():
    assert without_credentials("no x in text, key=x", ["x"]) == "no <hidden> in text, key=<hidden>"


def test_one_secret_may_begin_with_another():
    assert without_credentials("abcdefgh", ["abcdef", "abcdefgh", ""]) == "<hidden>"


def test_an_address_is_taken_apart():
    address = Address(f"{WEB}jo:p%40w@host:8/v1?a=2&key=long-one&bare-key-9", "url")
    assert (address.bare, address.query) == (f"{WEB}host:8/v1", "a=2&key=long-one&bare-key-9")
    assert address.user == ("jo", "p@w") and {"p@w", "long-one", "bare-key-9"} < address.secrets
    assert "jo" not in address.secrets and Address(f"{WEB}token@host", "url").secrets > {"token"}
    plain = Address(f"{WEB}[::1]:8/", "url")
    assert (plain.bare, plain.query, plain.user, plain.secrets) == (f"{WEB}[::1]:8/", "", None, set())


@pytest.mark.parametrize("piece", [WEB, WEB + "a" * 50 + "?", "//a@", "sk-secre", "%73"])
def test_a_long_text_takes_linear_time(piece):
    start = time.process_time()
    shown = without_credentials(piece * (500_000 // len(piece)) + " sk-secret", ["sk-secret", "http:/"])
    assert shown.endswith(" <hidden>") and time.process_time() - start < 5
