"""How the pool gets into a cluster: kubeconfig files, their contexts, tokens and programs."""

import json
import sys

import pytest
import yaml
from kubernetes_api import cluster

from mcp_pools.errors import PoolsError
from mcp_pools.kube.api import Api, ApiError
from mcp_pools.kube.credentials import find_access

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster that lets in who knows the word."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.trouble.token = "open sesame"
        yield made


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch, world):
    """Writes a kubeconfig whose current context has this user, and one that has nobody."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))

    def write(user):
        config = {
            "current-context": "here",
            "clusters": [{"name": "it", "cluster": {"server": world.url}}],
            "users": [{"name": "me", "user": user}],
            "contexts": [
                {"name": "here", "context": {"cluster": "it", "user": "me"}},
                {"name": "nobody", "context": {"cluster": "it", "user": "none"}},
            ],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))

    return write


async def count(access):
    """How many Jobs whoever is let in sees."""
    async with Api(access, "mcp-pools") as api:
        return len((await api.list("jobs"))["items"])


@pytest.mark.parametrize("user", [{"token": "open sesame"}, {"tokenFile": "token"}])
async def test_a_token_of_the_kubeconfig_lets_in(kubeconfig, tmp_path, user) -> None:
    """Written there, or in a file beside it."""
    (tmp_path / "token").write_text("open sesame\n")
    kubeconfig(user)
    assert await count(find_access(None, None)) == 0


async def test_an_endpoint_has_the_credentials_of_its_context(kubeconfig, world) -> None:
    """The kubeconfig says who goes there."""
    kubeconfig({"token": "open sesame"})
    assert await count(find_access(world.url + "/", None)) == 0


async def test_a_token_that_is_refused_is_read_again(kubeconfig, tmp_path) -> None:
    """Clusters rotate them."""
    (tmp_path / "token").write_text("old")
    kubeconfig({"tokenFile": "token"})
    access = find_access(None, None)
    await access.headers()
    (tmp_path / "token").write_text("open sesame")
    assert await count(access) == 0


async def test_a_credential_program_is_asked(kubeconfig, tmp_path) -> None:
    """With what it is told on the way; once, while its answer holds."""
    said = {"status": {"token": "open sesame", "expirationTimestamp": "2999-01-01T00:00:00Z"}}
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "asked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert asked['kind'] == 'ExecCredential' and sys.argv[1] == 'x' and os.environ['A'] == 'b'\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write('.')\nprint({json.dumps(said)!r})\n"
    )
    program.chmod(0o700)
    kubeconfig({"exec": {"command": "./program", "args": ["x"], "env": [{"name": "A", "value": "b"}]}})
    access = find_access(None, None)
    assert await count(access) == await count(access) == 0
    assert (tmp_path / "asked").read_text() == "."


async def test_a_credential_program_that_fails_is_told_without_its_words(kubeconfig) -> None:
    """They may hold a secret."""
    kubeconfig({"exec": {"command": sys.executable, "args": ["-c", "print('hush'); raise SystemExit(1)"]}})
    with pytest.raises(PoolsError) as refused:
        await count(find_access(None, None))
    assert refused.value.code == "pool_unreachable" and "hush" not in str(refused.value)


async def test_who_is_nobody_is_not_let_in(kubeconfig) -> None:
    """The refusal is the server's."""
    kubeconfig({"token": "open sesame"})
    with pytest.raises(ApiError) as refused:
        await count(find_access(None, "nobody"))
    assert refused.value.status == 401


def test_a_context_that_is_not_there_is_refused_with_those_that_are(kubeconfig) -> None:
    """By name."""
    kubeconfig({})
    with pytest.raises(PoolsError) as refused:
        find_access(None, "there")
    assert "'there'" in str(refused.value) and "here, nobody" in str(refused.value)


def test_without_a_kubeconfig_outside_a_cluster_nothing_is_found(tmp_path, monkeypatch) -> None:
    """And it is said what to do."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(PoolsError) as refused:
        find_access(None, None)
    assert refused.value.code == "invalid_payload" and "KUBECONFIG" in str(refused.value)
