"""The built-in task type `http`. Part of `catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from mcp_pools.errors import PoolsError
from mcp_pools.payload import Payload, SecretReference
from mcp_pools.task_type import TaskType

if TYPE_CHECKING:
    from mcp_pools.policy import Judge

OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})
"""Headers that say where a request goes and how long it is; they follow from the rest."""


class HttpPayload(Payload):
    """A request."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = Field(
        "GET", description="The method."
    )
    url: str = Field(min_length=1, max_length=10_000, description="An http or https URL.")
    headers: dict[str, str | SecretReference] = Field(
        default_factory=dict, description='Headers to send; values are text or {"$secret": "NAME"}.'
    )
    json_body: Any = Field(None, alias="json", description="What to send as JSON; none: no body.")


class HttpResult(BaseModel):
    """A response, whatever its status: only a connection that fails is a failure."""

    status: int = Field(description="Its status, 404 or 500 included.")
    headers: dict[str, str] = Field(description="Its headers, names in lower case, without set-cookie.")
    json_body: Any = Field(None, alias="json", description="Its body, when it is whole and JSON.")
    text: str | None = Field(None, description="Its body as text, when it is not JSON.")
    truncated: bool = Field(description="Whether the body is longer than the 4 MiB that are kept.")
    url: str = Field(description="Where it came from, after redirects.")


def _judge_http(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Judge what needs no DNS, and store what the rest is judged by.

    The worker resolves the name, judges the addresses and every redirect: an answer from
    here would be old by then, and a lookup would keep everybody waiting. So the entries of
    `allow.hosts` travel with the task, as its roots do, under a key that no payload may
    have: the model forbids it.
    """
    hosts = judge.hosts_for(payload["url"])
    if "@" in urlsplit(payload["url"]).netloc:
        raise PoolsError(
            "invalid_payload",
            "The URL holds a user name or a password, and payloads are stored.",
            'Send them as a header: {"authorization": {"$secret": "NAME"}}.',
        )
    for name in payload.get("headers") or {}:
        if name.lower() in OURS:
            raise PoolsError(
                "invalid_payload", f"The header {name!r} follows from the request.", "Leave it out."
            )
    return {**payload, "allowed_hosts": list(hosts)}


HTTP = TaskType(
    name="http",
    summary="An HTTP request to a host that is allowed; any status is a result.",
    handler="mcp_pools.task_types.http_request:run",
    payload=HttpPayload,
    result=HttpResult,
    check=_judge_http,
    example={"url": "https://example.com/", "headers": {"accept": "text/html"}},
)
