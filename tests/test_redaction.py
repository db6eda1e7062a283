"""No secret is left in what is written down, wherever it stood, and little else goes with it."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.redaction import DEEPEST, MASK, redacted, redacted_text

SECRET = st.text(string.ascii_letters + string.digits + "-_.~+/", min_size=8, max_size=60).map(
    lambda text: f"s3cr3t{text}"
)
WORDS = st.text(max_size=40)
KEYS = st.sampled_from(
    [
        *(
            "Authorization",
            "proxy-authorization",
            "password",
            "DB_PASSWORD",
            "api_key",
            "X-Api-Key",
            "apiKey",
        ),
        *(
            "token",
            "access_token",
            "GITHUB_TOKEN",
            "client_secret",
            "private_key",
            "Set-Cookie",
            "passphrase",
        ),
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(
    key=KEYS, secret=SECRET | st.lists(SECRET, min_size=1) | st.dictionaries(WORDS, SECRET), beside=ANYTHING
)
def test_what_stands_under_a_secret_key_is_masked_whole(key: str, secret: Any, beside: Any) -> None:
    """At any depth, whatever it is."""
    cleaned = redacted({"a": [{key: secret, "other": beside}]})
    assert cleaned["a"][0][key] == MASK and cleaned["a"][0]["other"] == redacted(beside)


@given(
    secret=SECRET,
    before=WORDS,
    form=st.sampled_from(
        [
            "Bearer {}",
            "bearer  {}",
            "Authorization: Bearer {}",
            "Authorization: Basic {}",
            "{{'authorization': 'Digest {}'}}",
            "Cookie: a=1; session={}",
            "password={}",
            "password: '{}'",
            '"api_key": "{}"',
            '\\"client_secret\\": \\"{}\\"',
            "https://user:{}@example.org/x?y=1",
            "postgresql://{}@db/pools",
            "https://example.org/?access_token={}&x=1",
            "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n{}",
        ]
    ),
)
def test_a_secret_is_found_by_what_stands_around_it(secret: str, before: str, form: str) -> None:
    """In the text of an error, a header, a URL, JSON inside of text."""
    safe = secret.replace("/", "x") if "://" in form else secret
    text = f"{before} {form.format(safe)}"
    assert safe not in redacted_text(text) and MASK in redacted_text(text)
    assert safe not in json.dumps(redacted({"message": [text]}))


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "sk-" + "aB3d" * 6,
        "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7",
        "github_pat_11ABCDEFG0aBcDeFgHiJkL",
        "glpat-aB3dE5fG7hI9jK1lM3nO",
        "xoxb-123456789012-abcdefghij",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyD-aBcDeFgHiJkLmNoPqRsTuVwXyZ01234",
        "hf_aBcDeFgHiJkLmNoPqRsTuVwX",
    ],
)
@pytest.mark.parametrize("around", ["{}", "it said {}, and ended", "(key={})", "'{}'"])
def test_a_token_of_a_known_shape_is_found_anywhere(token: str, around: str) -> None:
    """Without any word that says what it is."""
    assert token not in redacted_text(around.format(token))


@pytest.mark.parametrize(
    "text",
    [
        "Pool local has no idle worker: 2 running, 17 waiting, 2 workers at most.",
        "https://example.org:8080/path?page=2&next_page_token_count=3",
        "max_tokens: 1000, timeout=300, attempt: 2",
        "t_0661024a2d6920aa6a13549c9c01057b.1 ended as failed (task_error)",
        "mail me at someone@example.org",
        "basic and digest are words",
        "",
    ],
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    """A log that hides everything is of no use."""
    assert redacted_text(text) == text


@given(value=ANYTHING)
def test_anything_becomes_json(value: Any) -> None:
    """Sets, bytes and objects too; and what is clean stays clean."""
    cleaned = redacted(value)
    assert redacted(json.loads(json.dumps(cleaned))) == json.loads(json.dumps(redacted(cleaned)))


def test_what_is_nested_without_end_ends() -> None:
    """A structure that holds itself is cut."""
    endless: list[Any] = []
    endless.append(endless)
    assert json.dumps(redacted(endless)).count("[") == DEEPEST + 1


@pytest.mark.parametrize(
    "piece", ["a", "a=", "Bearer ", "a:", "-----BEGIN A PRIVATE KEY-----", "://", "eyJ", '"', "a.b-"]
)
@pytest.mark.timeout(20)
def test_long_texts_end(piece: str) -> None:
    """Nobody stops an owner with a line: a pattern that goes back and forth would take hours."""
    text = piece * (1_000_000 // len(piece))
    assert len(redacted_text(text)) <= 2 * len(text)
