"""The example that runs mcp-pools in a cluster: its parts fit each other, and this package."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from mcp_pools.settings import load

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "kubernetes"
PARTS = {each["kind"]: each for each in yaml.safe_load_all((EXAMPLES / "server.yaml").read_text())}
POD = PARTS["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]


def test_its_configuration_is_one(tmp_path: Path) -> None:
    """Every key exists; the tokens are where the Secret is mounted."""
    (file := tmp_path / "config.yaml").write_text(PARTS["ConfigMap"]["data"]["config.yaml"])
    settings = load(config_file=file, environ={})
    mounts = {each["name"]: each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert str(settings.auth.tokens_file).startswith(mounts["tokens"] + "/")
    assert CONTAINER["command"][-1].startswith(mounts["config"] + "/")
    assert settings.pools["cloud"].type == "kubernetes"


def test_its_command_serves_behind_those_tokens(tmp_path: Path) -> None:
    """With the pod's own words, but for its paths and port: without the Secret it says what is missing."""
    (file := tmp_path / "config.yaml").write_text(PARTS["ConfigMap"]["data"]["config.yaml"])
    command = [word.replace(":8680", ":0") for word in CONTAINER["command"][1:-1]] + [str(file)]
    done = subprocess.run(
        [Path(sys.executable).parent / "mcp-pools", *command],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MCP_POOLS_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "/etc/mcp-pools/tokens/tokens.yaml" in done.stderr, shlex.join(command)


def test_its_pod_is_restricted_and_what_it_names_is_there() -> None:
    """The namespace enforces the restricted profile; account, claim, labels and ports fit."""
    spec, own = POD["spec"], CONTAINER["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    assert own["capabilities"] == {"drop": ["ALL"]} and own["allowPrivilegeEscalation"] is False
    documents = list(yaml.safe_load_all((EXAMPLES / "rbac.yaml").read_text()))
    accounts = [each["metadata"]["name"] for each in documents if each["kind"] == "ServiceAccount"]
    assert spec["serviceAccountName"] in accounts
    volumes = json.dumps(spec["volumes"])
    assert PARTS["PersistentVolumeClaim"]["metadata"]["name"] in volumes
    assert {each["name"] for each in spec["volumes"]} == {each["name"] for each in CONTAINER["volumeMounts"]}
    assert PARTS["Service"]["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
    assert PARTS["Service"]["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
