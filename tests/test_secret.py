"""Secrets are referred to, refused in plain, and filled in only by a launch."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.errors import PoolsError
from mcp_pools.policy import fill_secrets, read_secret, refuse_plain_secrets, secret_names
from mcp_pools.secret import MASK, masked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def test_references_are_found_and_filled_at_any_depth() -> None:
    """Only the reference itself is replaced, and the payload stays as it was."""
    payload = {"headers": {"Authorization": {"$secret": "A"}}, "list": [{"$secret": "B"}, 1], "n": None}
    assert secret_names(payload) == ("A", "B")
    filled = fill_secrets(payload, str.lower)
    assert filled == {"headers": {"Authorization": "a"}, "list": ["b", 1], "n": None}
    assert payload["list"][0] == {"$secret": "B"}


@given(payload=JSON)
def test_a_payload_without_references_is_not_changed(payload: Any) -> None:
    """No text turns into a reference."""
    assert secret_names(payload) == ()
    assert fill_secrets(payload, str.upper) == payload


@pytest.mark.parametrize("reference", [{"$secret": 1}, {"$secret": ""}, {"$secret": "A", "x": 1}])
def test_a_reference_of_another_shape_is_invalid(reference: dict[str, Any]) -> None:
    """A typing mistake must not be stored as if it were data."""
    for judge in (secret_names, refuse_plain_secrets):
        with pytest.raises(PoolsError) as error:
            judge({"a": reference})
        assert error.value.code == "invalid_payload"


@pytest.mark.parametrize(
    "key",
    [
        *("authorization", "Authorization", "Proxy-Authorization", "token", "access_token", "accessToken"),
        *("X-Auth-Token", "GITHUB_TOKEN", "password", "DB_PASSWORD", "api_key", "api-key", "X-API-Key"),
        *("apiKey", "APIKEY", "secret", "client_secret", "AWS_SECRET_ACCESS_KEY", "private_key"),
    ],
)
def test_plain_text_under_a_key_that_looks_secret_is_refused(key: str) -> None:
    """The refusal says where it stands and how to write it, and does not repeat it."""
    with pytest.raises(PoolsError) as error:
        refuse_plain_secrets({"headers": [{key: "hunter2"}]})
    assert error.value.code == "invalid_payload"
    assert f"headers[0].{key}" in error.value.message and '{"$secret": "NAME"}' in error.value.next
    assert "hunter2" not in str(error.value)
    refuse_plain_secrets({key: {"$secret": "A"}})
    refuse_plain_secrets({key: ""})
    refuse_plain_secrets({key: 7})


@pytest.mark.parametrize("key", ["max_tokens", "next_page_token", "nextToken", "key", "author", "monkey", ""])
def test_other_keys_hold_plain_text(key: str) -> None:
    """Paging tokens and token counts are no secrets."""
    refuse_plain_secrets({key: "text"})


def test_a_secret_comes_from_the_environment_a_file_or_a_command(tmp_path: Path) -> None:
    """The line end that closes a file or an output is not part of it."""
    file = tmp_path / "secret"
    file.write_text("from file\n")
    sources = {
        "E": {"env": "VARIABLE"},
        "F": {"file": str(file)},
        "C": {"command": [sys.executable, "-c", "print('from command')"]},
    }
    assert read_secret("E", sources, environ={"VARIABLE": "from env"}) == "from env"
    assert read_secret("F", sources) == "from file"
    assert read_secret("C", sources) == "from command"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"env": "UNSET"}, "UNSET is not set"),
        ({"env": "EMPTY"}, "it is empty"),
        ({"file": "/does/not/exist"}, "No such file"),
        ({"command": [sys.executable, "-c", "print('hunter2'); raise SystemExit(3)"]}, "status 3"),
        ({"command": ["/does/not/exist"]}, "No such file"),
        ({"command": [sys.executable, "-c", "import os; os.write(1, b'\\xff')"]}, "not text"),
        ({"vault": "x"}, "none of env, file, command"),
        ({}, "none of env, file, command"),
    ],
)
def test_a_source_that_cannot_be_read_says_why_and_which_key(source: dict[str, Any], reason: str) -> None:
    """The message never holds what the source said."""
    with pytest.raises(PoolsError, match=reason) as error:
        read_secret("S", {"S": source}, environ={"EMPTY": ""})
    assert error.value.code == "task_error" and "secrets.S" in error.value.next
    assert "hunter2" not in str(error.value)


def test_an_unknown_secret_names_the_nearest() -> None:
    """A mistyped name is found at once."""
    with pytest.raises(PoolsError, match="Did you mean 'API'") as error:
        read_secret("APl", {"API": {"env": "X"}})
    assert error.value.code == "invalid_payload"


@given(st.text(min_size=4), st.binary(), st.binary(), st.booleans())
def test_what_a_task_says_holds_no_secret(secret: str, before: bytes, after: bytes, ascii: bool) -> None:
    """Neither as it is nor as JSON writes it; what else was said stays around the mask."""
    for written in (
        secret.encode(errors="replace"),
        json.dumps(secret, ensure_ascii=ascii).encode(errors="replace"),
    ):
        said = masked(before + written + after, [secret])
        assert secret.encode(errors="replace") not in said
        assert MASK in said


def test_a_value_too_short_to_be_a_secret_is_not_masked() -> None:
    """It would be found everywhere."""
    assert masked(b"a man, a plan", ["a"]) == b"a man, a plan"
