"""The objects of an attempt: names, options, templates, and the code that they bring."""

import ast
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.errors import CODES
from mcp_pools.kube import manifest
from mcp_pools.kube.bundle import bundle
from mcp_pools.kube.frames import PART_BYTES, Reader, Writer
from mcp_pools.models import PoolSpec

LAUNCH = Launch("t_1.1", "t_1", 1, "echo", "m:f", b"{}", 60.0, "/", (), 0, "cloud-1", 1)
LABELS = manifest.labels("cloud", "home")


def job(**options):
    """The Job of a launch, with these options."""
    return manifest.job(LAUNCH, PoolSpec(name="cloud", type="kubernetes", options=options), LABELS, "code")


def test_names_are_the_same_each_time_and_fit_the_api() -> None:
    """Lower-case, at most 63 characters with the ending of a pod, unlike those of other attempts."""
    names = {manifest.job_name(attempt) for attempt in ("t_1.1", "t_1.11", "t_11.1", "T_1.1", "x" * 99)}
    assert len(names) == 5 and manifest.job_name("t_1.1") in names
    assert all(name == name.lower() and len(name) <= 57 and name[-1].isalnum() for name in names)


def test_a_job_runs_once_has_a_deadline_and_goes_away() -> None:
    """One layer alone owns retries, and it is not this one."""
    spec = job(pending_seconds=100, ttl_seconds=30)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], spec["completions"]) == (0, "Failed", 1)
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (220, 30)


def test_a_queue_gets_the_job_suspended_with_its_label() -> None:
    """As Kueue wants it."""
    made = job(queue="team")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert made["spec"]["suspend"] is True and "suspend" not in job()["spec"]


def test_a_pod_template_is_laid_over_ours() -> None:
    """Containers and volumes by name; null takes away; our labels stay."""
    template = {
        "metadata": {"labels": {"team": "a", manifest.POOL: "other"}},
        "spec": {
            "enableServiceLinks": None,
            "containers": [{"name": "task", "env": [{"name": "A", "value": "b"}]}, {"name": "proxy"}],
        },
    }
    pod = job(pod_template=template, node_selector={"disk": "fast"})["spec"]["template"]
    assert pod["metadata"]["labels"]["team"] == "a" and pod["metadata"]["labels"][manifest.POOL] == "cloud"
    task, proxy = pod["spec"]["containers"]
    assert proxy == {"name": "proxy"} and task["securityContext"]["readOnlyRootFilesystem"]
    assert {"name": "A", "value": "b"} in task["env"] and len(task["env"]) == 5
    assert "enableServiceLinks" not in pod["spec"] and pod["spec"]["nodeSelector"] == {"disk": "fast"}


@pytest.mark.parametrize(("size", "count"), [(0, 1), (700_000, 1), (700_001, 2), (2_000_000, 3)])
def test_input_is_split_over_secrets_that_the_pod_mounts(size, count) -> None:
    """Each below what the API takes."""
    launch = replace(LAUNCH, payload=b"x" * size)
    secrets = manifest.secrets(launch, Surroundings(Path("/"), {"PATH": "/bin", "KEEP": "x"}), LABELS)
    assert len(secrets) == count and all(len(json.dumps(each)) < 1_400_000 for each in secrets)
    made = manifest.job(launch, PoolSpec(name="cloud", type="kubernetes"), LABELS, "code")
    volume = next(each for each in made["spec"]["template"]["spec"]["volumes"] if each["name"] == "input")
    mounted = [each["secret"]["name"] for each in volume["projected"]["sources"]]
    assert mounted == [each["metadata"]["name"] for each in secrets]


def test_frames_are_heard_once_and_damage_is_known() -> None:
    """Whatever is read again, is missing or was changed on the way."""
    writer, reader = Writer(), Reader()
    lines = [writer.line("printed", data)[:-1] for data in (b"", b"a\nb", b"\xff" * PART_BYTES)]
    assert max(map(len, lines)) < 16384
    heard = [reader.line(line) for line in (*lines[:2], *lines)]
    assert [each.data for each in heard if each] == [b"", b"a\nb", b"\xff" * PART_BYTES]
    assert not reader.damage
    late = Reader()
    assert late.line(lines[1]) is None and "frame 0 is missing" in late.damage
    late.again()
    assert late.line(lines[0].replace(b"0 printed", b"0 ended")) is None and "damaged" in late.damage


@pytest.mark.parametrize(
    ("kind", "payload", "result"),
    [
        ("echo", {"x": "é"}, {"x": "é"}),
        ("sleep", {"seconds": 0}, {"slept": 0.0}),
        ("compute", {"expression": "x + 1", "items": [1]}, {"items": [{"result": 2}]}),
        ("transform", {"expression": "a", "data": {"a": 1}}, {"value": 1}),
        ("python", {"function": "statistics:mean", "kwargs": {"data": [1, 3]}}, 2),
        ("command", {"argv": ["/bin/sh", "-c", "exit 3"], "cwd": "/not/here"}, None),
        ("process", {"argv": ["/bin/echo", "{item}"], "items": [1], "cwd": "/not/here"}, "1\n"),
    ],
)
def test_the_bundle_runs_task_types_on_a_bare_python(tmp_path, kind, payload, result) -> None:
    """With nothing installed: no site-packages, no environment."""
    (tmp_path / "code.zip").write_bytes(bundle()[1])
    (tmp_path / "payload-0").write_text(json.dumps(payload))
    launch = replace(LAUNCH, handler=f"mcp_pools.task_types.{kind}:run", cwd="/not/here")
    facts = manifest._facts(launch, Surroundings(tmp_path, {}), 1)
    (tmp_path / "launch.json").write_text(json.dumps(facts))
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-I", "-S", str(tmp_path / "code.zip"), str(tmp_path)]
    given = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, timeout=30, check=True, env=given)
    reader = Reader()
    frames = [frame for line in done.stdout.splitlines() if (frame := reader.line(line))]
    told = b"".join(frame.data for frame in frames if frame.kind == "part")
    end = frames[-1].fields
    if kind == "command":
        assert end["code"] in CODES and end["details"]["exit_code"] == 3
    elif kind == "process":
        assert json.loads(told)["items"][0]["result"]["stdout"] == result
    else:
        assert end["code"] is None and json.loads(told) == result


def test_the_bundle_leaves_out_nothing_that_it_imports() -> None:
    """But what only the router's side imports, and never in a Job."""
    with zipfile.ZipFile(io.BytesIO(bundle()[1])) as packed:
        names = {
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in packed.namelist()
        }
        sources = [packed.read(name) for name in packed.namelist() if name.startswith("mcp_pools/")]
    wanted = {
        node.module
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcp_pools.")
    }
    assert wanted - names == {"mcp_pools.router", "mcp_pools.settings"}
