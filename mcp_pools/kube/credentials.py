"""Which API server, and as whom: a kubeconfig's context, the service account of a pod, or nobody.

The files and programs that a kubeconfig names are trusted because it lies where its user
put it (`KUBECONFIG`, else `~/.kube/config`); a pool's definition can only choose a context of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from mcp_pools.errors import PoolsError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_SECONDS: Final = 60.0
"""How long a credential program may take."""

_TOKEN_FILE_SECONDS: Final = 30.0
"""How long what a token file said is believed; clusters rotate them long before they expire."""


@dataclass(slots=True)
class Access:
    """An API server and how to be let in.

    `user` is a kubeconfig's: `token`, `tokenFile`, `exec`, client certificate, basic.
    """

    server: str
    tls: ssl.SSLContext | bool = True
    user: Mapping[str, Any] = field(default_factory=dict)
    directory: Path = Path("/")
    """What the relative paths of `user` start from."""
    _token: str | None = None
    _until: float = 0.0

    async def headers(self, *, fresh: bool = False) -> dict[str, str]:
        """The headers that say who asks; `fresh`: what was used so far is not accepted any more.

        Raises `PoolsError` `pool_unreachable` when the credential cannot be had.
        """
        user = self.user
        if "username" in user:
            pair = base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode())
            return {"Authorization": f"Basic {pair.decode()}"}
        if fresh or self._token is None or time.time() > self._until:
            self._token, self._until = await asyncio.to_thread(self._obtained)
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _obtained(self) -> tuple[str, float]:
        if "exec" in self.user:
            return self._from_program(self.user["exec"])
        if "tokenFile" in self.user:
            path = self.directory / self.user["tokenFile"]
            try:
                return path.read_text().strip(), time.time() + _TOKEN_FILE_SECONDS
            except OSError as error:
                raise _unreachable(f"The token file {path} cannot be read: {error.strerror}.") from error
        return str(self.user.get("token") or ""), float("inf")

    def _from_program(self, plug: Mapping[str, Any]) -> tuple[str, float]:
        """Ask the credential program of the kubeconfig; its output is kept in memory alone."""
        command = str(plug["command"])
        if "/" in command:
            command = str(self.directory / command)
        api = str(plug.get("apiVersion", "client.authentication.k8s.io/v1"))
        asked = {"apiVersion": api, "kind": "ExecCredential", "spec": {"interactive": False}}
        given = {str(each["name"]): str(each["value"]) for each in plug.get("env") or ()}
        try:
            done = subprocess.run(
                [command, *map(str, plug.get("args") or ())],
                env={**os.environ, **given, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=EXEC_SECONDS,
                check=True,
            )
            status = json.loads(done.stdout)["status"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            kind = type(error).__name__
            raise _unreachable(f"The credential program {plug['command']!r} gave none: {kind}.") from error
        if "clientCertificateData" in status and isinstance(self.tls, ssl.SSLContext):
            certificate, key = status["clientCertificateData"], status["clientKeyData"]
            _load_chain(self.tls, certificate.encode(), key.encode())
        until = float("inf")
        if expires := status.get("expirationTimestamp"):
            until = datetime.fromisoformat(expires.replace("Z", "+00:00")).timestamp() - 10
        return str(status.get("token") or ""), until


def find_access(endpoint: str | None, context: str | None) -> Access:
    """The access that a pool's definition means.

    Args:
        endpoint: the API server's URL; the credentials are those of the kubeconfig's context
            with that server, or none (as for `kubectl proxy`). `None`: the context says which.
        context: a context of the kubeconfig; `None`: its current one. Without a kubeconfig,
            inside a cluster, the pod's service account is used.

    Raises `PoolsError` `invalid_payload` when there is no such context, or nothing at all.
    """
    paths = [Path(path) for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    known = [path for path in paths or [Path.home() / ".kube" / "config"] if path.is_file()]
    if known:
        config = _Config(known)
        if endpoint is None:
            return config.access(context)
        if (name := context or config.context_of(endpoint)) is not None:
            return config.access(name, endpoint)
    if context is not None:
        raise _invalid(f"There is no kubeconfig that has a context {context!r}.", "Set KUBECONFIG.")
    if endpoint is not None:
        return Access(endpoint)
    return _in_cluster()


def _in_cluster() -> Access:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (SERVICE_ACCOUNT / "token").is_file():
        raise _invalid(
            "There is no kubeconfig, and this is no pod of a cluster.",
            "Set KUBECONFIG to a kubeconfig file, or give the API server's URL as endpoint.",
        )
    tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", tls, {"tokenFile": "token"}, SERVICE_ACCOUNT)


class _Config:
    """Kubeconfig files, merged as kubectl does: the first that says something is right."""

    def __init__(self, paths: list[Path]) -> None:
        self._contexts: dict[str, tuple[dict[str, Any], Path]] = {}
        self._clusters: dict[str, tuple[dict[str, Any], Path]] = {}
        self._users: dict[str, tuple[dict[str, Any], Path]] = {}
        self._current: str | None = None
        for path in paths:
            try:
                content = yaml.safe_load(path.read_text()) or {}
                self._current = self._current or content.get("current-context")
                for kind, into in (
                    ("context", self._contexts),
                    ("cluster", self._clusters),
                    ("user", self._users),
                ):
                    for entry in content.get(f"{kind}s") or ():
                        into.setdefault(entry["name"], (entry.get(kind) or {}, path.parent))
            except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
                kind = type(error).__name__
                message = f"The kubeconfig {path} cannot be read: {kind}."
                raise _invalid(message, "Try kubectl config view.") from error

    def context_of(self, server: str) -> str | None:
        """The context of a server, the current one first."""
        names = sorted(self._contexts, key=lambda name: name != self._current)
        for name in names:
            cluster, _ = self._clusters.get(self._contexts[name][0].get("cluster", ""), ({}, Path()))
            if str(cluster.get("server", "")).rstrip("/") == server.rstrip("/"):
                return name
        return None

    def access(self, name: str | None, endpoint: str | None = None) -> Access:
        """What a context stands for."""
        name = name or self._current
        if name not in self._contexts:
            known = ", ".join(sorted(self._contexts)) or "none"
            raise _invalid(f"The kubeconfig has no context {name!r}.", f"It has: {known}.")
        context, _ = self._contexts[name]
        cluster, cluster_directory = self._clusters.get(context.get("cluster", ""), ({}, Path()))
        user, user_directory = self._users.get(context.get("user", ""), ({}, Path()))
        server = endpoint or cluster.get("server")
        if not server:
            raise _invalid(f"The context {name!r} names no server.", "Correct the kubeconfig.")
        try:
            tls = _tls(cluster, cluster_directory, user, user_directory)
        except (OSError, ValueError) as error:
            kind = type(error).__name__
            message = f"The certificates of the context {name!r} cannot be used: {kind}."
            raise _invalid(message, "Correct the kubeconfig.") from error
        return Access(str(server), tls, user, user_directory)


def _tls(
    cluster: Mapping[str, Any], cluster_directory: Path, user: Mapping[str, Any], user_directory: Path
) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", cluster_directory)
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate = _content(user, "client-certificate", user_directory)
    key = _content(user, "client-key", user_directory)
    if certificate and key:
        _load_chain(tls, certificate, key)
    return tls


def _content(of: Mapping[str, Any], name: str, directory: Path) -> bytes | None:
    if data := of.get(f"{name}-data"):
        return base64.b64decode(data)
    return (directory / of[name]).read_bytes() if of.get(name) else None


def _load_chain(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python reads a client's certificate from files only: they are there for the blink of an eye."""
    with tempfile.TemporaryDirectory(prefix="mcp-pools-") as directory:
        chain, secret = Path(directory) / "certificate", Path(directory) / "key"
        for path, content in ((chain, certificate), (secret, key)):
            path.touch(mode=0o600)
            path.write_bytes(content)
        tls.load_cert_chain(chain, secret)


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)


def _unreachable(message: str) -> PoolsError:
    return PoolsError("pool_unreachable", message, "Correct the kubeconfig.", retryable=True)
