"""An API server of Kubernetes, over HTTP: requests, streams, and what its refusals say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final

import httpx

from mcp_pools.errors import PoolsError
from mcp_pools.kube.credentials import Access

Object = dict[str, Any]
"""An object of the API, as JSON has it."""

REQUEST_SECONDS: Final = 30.0
SILENCE_SECONDS: Final = 330.0
"""How long a watch may say nothing: longer than it lasts, so only a dead peer gets there."""
MANAGER: Final = "mcp-pools"
"""As whom fields are applied."""
_ROOTS: Final = {
    "jobs": "/apis/batch/v1",
    "deployments": "/apis/apps/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
}
"""Where the kinds are that are not of the core."""
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_TURNS: Final = 4
"""How often a request is made that the server is too busy for."""
_MOST_PAUSE_SECONDS: Final = 10.0


class ApiError(Exception):
    """The server refused, or (status 0) did not answer.

    `reason` is the API's word (`NotFound`, `AlreadyExists`, `Forbidden`, `Expired`, …).
    """

    def __init__(self, status: int, reason: str, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.pause = pause
        """Seconds the server asked to be left alone for."""

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later: nothing was wrong with it."""
        return self.status in (0, 401, 408, 429) or self.status >= 500


class Api:
    """One namespace of an API server; an asynchronous context manager."""

    def __init__(self, access: Access, namespace: str) -> None:
        self._access = access
        self._namespace = namespace
        self._client = httpx.AsyncClient(
            base_url=access.server.rstrip("/"),
            verify=access.tls,
            timeout=httpx.Timeout(REQUEST_SECONDS, connect=5.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            headers={"User-Agent": "mcp-pools", "Accept": "application/json"},
            trust_env=False,
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    def path(self, kind: str, name: str = "") -> str:
        """Where objects of a kind (`jobs`, `pods`, `secrets`, …) are."""
        return f"{_ROOTS.get(kind, '/api/v1')}/namespaces/{self._namespace}/{kind}" + (
            f"/{name}" if name else ""
        )

    async def create(self, kind: str, body: Object) -> Object:
        """Create an object. One that is there already is as good, for names say what they hold."""
        try:
            return await self._request("POST", self.path(kind), body=body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            if kind in ("configmaps", "secrets"):
                return body
            return await self.get(kind, body["metadata"]["name"])

    async def get(self, kind: str, name: str) -> Object:
        """One object."""
        return await self._request("GET", self.path(kind, name))

    async def list(self, kind: str, **parameters: str) -> Object:
        """The objects of a kind, all of them, and the version of the list."""
        return await self._request("GET", self.path(kind), parameters=parameters)

    async def apply(self, kind: str, body: Object) -> Object:
        """Make an object be as `body` says, in all that it says; the object. It is created if need be."""
        return await self._request(
            "PATCH",
            self.path(kind, body["metadata"]["name"]),
            body=body,
            parameters={"fieldManager": MANAGER, "force": "true"},
            content=_APPLY,
        )

    async def scale(self, name: str, replicas: int) -> None:
        """Give a Deployment so many pods."""
        path = self.path("deployments", f"{name}/scale")
        await self._request("PATCH", path, body={"spec": {"replicas": replicas}}, content=_MERGE)

    async def own(self, kind: str, name: str, owner: Object) -> None:
        """Let an object go when its owner goes."""
        reference = {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        body = {"metadata": {"ownerReferences": [reference]}}
        await self._request("PATCH", self.path(kind, name), body=body, content=_MERGE)

    async def delete(self, kind: str, name: str, policy: str = "Foreground") -> None:
        """Delete an object, after (`Foreground`) or before what it owns; that it is not there is as good."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        try:
            await self._request("DELETE", self.path(kind, name), body=body)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        parameters: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        """One request; raises `ApiError`. A server that asks for a pause gets it."""
        data = None if body is None else json.dumps(body).encode()
        fresh = False
        for turn in range(_TURNS):
            try:
                headers = {"Content-Type": content, **await self._access.headers(fresh=fresh)}
                response = await self._client.request(
                    method, path, content=data, params=parameters, headers=headers
                )
            except httpx.HTTPError as error:
                raise unanswered(error) from error
            if response.is_success:
                return response.json()  # type: ignore[no-any-return]
            refusal = refused(response, response.content)
            again = (refusal.status == 401 and not fresh) or refusal.status == 429
            if not again or turn == _TURNS - 1:
                raise refusal
            fresh = refusal.status == 401
            await asyncio.sleep(0 if fresh else min(refusal.pause or 1.0, _MOST_PAUSE_SECONDS))
        raise AssertionError

    @asynccontextmanager
    async def lines(self, path: str, **parameters: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a stream, as they come; raises `ApiError`, also while it is read."""
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=5.0, pool=None, read=SILENCE_SECONDS)
        try:
            for fresh in (False, True):
                headers = await self._access.headers(fresh=fresh)
                async with self._client.stream(
                    "GET", path, params=parameters, headers=headers, timeout=timeout
                ) as response:
                    if response.is_success:
                        yield _lines(response)
                        return
                    refusal = refused(response, await response.aread())
                    if refusal.status != 401 or fresh:
                        raise refusal
        except httpx.HTTPError as error:
            raise unanswered(error) from error


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Whole lines, without their ends; the last one may have none."""
    rest = b""
    async for data in response.aiter_bytes():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


def refused(response: httpx.Response, content: bytes) -> ApiError:
    """What a refusal says."""
    reason, message = "", ""
    with contextlib.suppress(ValueError, AttributeError):
        status = json.loads(content)
        reason, message = status.get("reason") or "", status.get("message") or ""
    pause = None
    with contextlib.suppress(ValueError):
        pause = float(response.headers.get("retry-after", ""))
    return ApiError(response.status_code, reason, message or f"HTTP {response.status_code}", pause)


def unopened(error: ApiError) -> PoolsError:
    """A pool cannot begin: what the server refused, and what to do about it."""
    advice = "See that the cluster answers: kubectl get --raw /readyz."
    if error.status in (401, 403):
        advice = "Give its account the rights of examples/kubernetes/rbac.yaml, or choose another context."
    elif error.status == 404:
        advice = "Create the namespace, as examples/kubernetes/rbac.yaml does, or name another one."
    message = f"The API server refused: {error}"
    if error.status in (400, 422):
        return PoolsError("invalid_payload", message, "Correct the pool's options, pod_template first.")
    return PoolsError("pool_unreachable", message, advice, retryable=True)


def unanswered(error: httpx.HTTPError) -> ApiError:
    """What it means that there was no answer."""
    words = str(error) or type(error).__name__
    return ApiError(0, type(error).__name__, f"The API server does not answer: {words}")
