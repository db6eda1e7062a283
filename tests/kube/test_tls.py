"""A cluster over TLS: whom it trusts, who is trusted, and a pod's own account there."""

import base64
import json
import ssl

import pytest
import trustme
import yaml
from kubernetes_api import cluster

from mcp_pools.errors import PoolsError
from mcp_pools.kube import credentials
from mcp_pools.kube.api import Api, ApiError
from mcp_pools.kube.credentials import find_access

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority():
    """Who vouches for the server and for its clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def shown(tmp_path_factory, authority):
    """What a cluster shows, as uvicorn takes it; it knows clients by the same authority."""
    directory = tmp_path_factory.mktemp("shown")
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return {"ssl_certfile": str(directory / "server.pem"), "ssl_ca_certs": str(directory / "ca.pem")}


@pytest.fixture(scope="module")
def world(tmp_path_factory, shown):
    """A cluster that talks to anybody."""
    with cluster(tmp_path_factory.mktemp("cluster"), **shown) as made:
        yield made


@pytest.fixture(scope="module")
def strict(tmp_path_factory, shown):
    """A cluster that wants to see everybody's certificate."""
    with cluster(tmp_path_factory.mktemp("strict"), ssl_cert_reqs=ssl.CERT_REQUIRED, **shown) as made:
        yield made


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch, world, authority):
    """Writes a kubeconfig for the cluster: its entry's further fields, and its user."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())

    def write(cluster, user):
        config = {
            "current-context": "here",
            "clusters": [{"name": "it", "cluster": {"server": world.url} | cluster}],
            "users": [{"name": "me", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me"}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        return find_access(None, None)

    return write


def data(blob):
    """A blob as a kubeconfig has it."""
    return base64.b64encode(blob.bytes()).decode()


async def count(access):
    """How many Jobs whoever is let in sees."""
    async with Api(access, "mcp-pools") as api:
        return len((await api.list("jobs"))["items"])


async def test_a_server_is_trusted_by_the_authority_of_the_kubeconfig(kubeconfig, authority) -> None:
    """Given as a file, as data; or not asked for."""
    assert await count(kubeconfig({"certificate-authority": "ca.pem"}, {})) == 0
    assert await count(kubeconfig({"certificate-authority-data": data(authority.cert_pem)}, {})) == 0
    assert await count(kubeconfig({"insecure-skip-tls-verify": True}, {})) == 0


async def test_a_server_that_nobody_vouches_for_is_not_talked_to(kubeconfig) -> None:
    """Neither unknown nor vouched for by another."""
    for trusted in ({}, {"certificate-authority-data": data(trustme.CA().cert_pem)}):
        with pytest.raises(ApiError) as refused:
            await count(kubeconfig(trusted, {"token": "secret"}))
        assert refused.value.status == 0 and "CERTIFICATE_VERIFY_FAILED" in refused.value.message


async def test_a_client_certificate_lets_in(strict, kubeconfig, authority, tmp_path) -> None:
    """As data, in files, or from a credential program; without one nobody comes in."""
    mine = authority.issue_cert("me@example.org")
    trusted = {"certificate-authority": "ca.pem", "server": strict.url}
    chain, key = mine.cert_chain_pems[0], mine.private_key_pem
    with pytest.raises(ApiError):
        await count(kubeconfig(trusted, {}))
    given = {"client-certificate-data": data(chain), "client-key-data": data(key)}
    assert await count(kubeconfig(trusted, given)) == 0
    chain.write_to_path(str(tmp_path / "me.crt"))
    key.write_to_path(str(tmp_path / "me.key"))
    assert await count(kubeconfig(trusted, {"client-certificate": "me.crt", "client-key": "me.key"})) == 0
    program = tmp_path / "program"
    status = {"clientCertificateData": chain.bytes().decode(), "clientKeyData": key.bytes().decode()}
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/said\n")
    program.chmod(0o700)
    (tmp_path / "said").write_text(json.dumps({"status": status}))
    assert await count(kubeconfig(trusted, {"exec": {"command": "./program"}})) == 0


@pytest.fixture
def account(tmp_path, monkeypatch, world, authority):
    """The directory of a service account, and the variables that a pod gets."""
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "token").write_text("mounted")
    host, _, port = world.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    world.trouble.token = "mounted"
    yield tmp_path
    world.trouble.token = None


async def test_inside_a_cluster_the_pods_own_account_is_used(account, world) -> None:
    """Its token is read again when the cluster has changed it."""
    access = find_access(None, None)
    assert await count(access) == 0
    (account / "token").write_text("rotated")
    world.trouble.token = "rotated"
    assert await count(access) == 0


def test_a_certificate_that_is_none_is_refused_by_the_name_of_its_context(kubeconfig) -> None:
    """Before anything is asked."""
    with pytest.raises(PoolsError, match="'here'"):
        kubeconfig({"certificate-authority-data": "bm9uZQ=="}, {})
