"""What a real cluster (v1.36) said, step by step, and what the pool makes of it.

`tests/recordings/kubernetes.jsonl`: one scenario a line, {"scenario", "rows"}; a row is
[kind of object, kind of change, object], the objects without what nobody reads.
"""

import json
from pathlib import Path

import pytest

from mcp_pools.adapter import Ended, Launch, Returned
from mcp_pools.kube import reasons
from mcp_pools.kube.attempt import Attempt

RECORDINGS = Path(__file__).parent.parent / "recordings" / "kubernetes.jsonl"
SCENARIOS = {each["scenario"]: each["rows"] for each in map(json.loads, RECORDINGS.read_text().splitlines())}
SECONDS = 300.0

LAUNCH = Launch("t_1.1", "t_1", 1, "echo", "m:f", b"{}", 60.0, "/", (), 0, "cloud-1", 1)


def seen(attempt, kind, change, thing):
    """Tell an attempt of one row."""
    if kind == "jobs":
        attempt.job, attempt.job_gone = thing, change == "DELETED"
    elif kind == "pods":
        attempt.pod, attempt.pod_gone = thing, change == "DELETED"
    elif kind == "events":
        name, attempt.pod_refused = reasons.failed_create(thing)
        assert name == attempt.name
    else:
        attempt.refused = reasons.refusal(change, thing["message"])


def replay(scenario):
    """The waits, and the verdict, which comes while nothing more can be read from the log."""
    attempt, waits, verdict = Attempt(LAUNCH, scenario), [], None
    for number, row in enumerate(SCENARIOS[scenario]):
        seen(attempt, *row)
        attempt.read_out = attempt.over
        held = attempt.look(float(number))
        if held is not None and held.code not in [each.code for each in waits]:
            waits.append(held)
        verdict = verdict or attempt.verdict(float(number), SECONDS)
    return attempt, waits, verdict


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("exit-7", "worker_lost"),
        ("oom", "out_of_memory"),
        ("termination-message", "worker_lost"),
        ("deadline", "timeout"),
        ("evicted-by-api", "evicted"),
        ("disk-evicted", "evicted"),
        ("pod-deleted", "worker_lost"),
        ("cancel-foreground", "worker_lost"),
        ("arg-too-long", "worker_lost"),
        ("success", "worker_lost"),
        ("ttl", "worker_lost"),
    ],
)
def test_an_end_without_an_outcome_is_an_error_that_says_why(scenario, code) -> None:
    """Also one that ended well, for it told no result."""
    _, _, verdict = replay(scenario)
    assert isinstance(verdict, Ended) and verdict.code == code and verdict.message


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("image-pull", "image_pull"),
        ("unschedulable", "unschedulable"),
        ("quota-pods", "quota"),
        ("quota-jobs", "quota"),
        ("suspended", "quota"),
    ],
)
def test_a_wait_has_a_reason_with_the_words_of_the_cluster(scenario, code) -> None:
    """At once, and without an end as long as there is hope."""
    _, waits, verdict = replay(scenario)
    assert [each.code for each in waits] == [code] and len(waits[0].message) > 20
    assert verdict is None or scenario == "suspended"


@pytest.mark.parametrize("scenario", ["image-pull", "unschedulable", "quota-pods", "quota-jobs"])
def test_a_wait_ends_with_its_reason(scenario) -> None:
    """After `pending_seconds`."""
    attempt, waits, _ = replay(scenario)
    ended = attempt.verdict(1000.0, SECONDS)
    assert isinstance(ended, Ended) and ended.code == waits[0].code and ended.retryable


def test_a_suspended_job_waits_as_long_as_its_queue_wants() -> None:
    """Nobody counts the seconds."""
    attempt = Attempt(LAUNCH, "suspended")
    seen(attempt, *SCENARIOS["suspended"][0])
    attempt.look(0.0)
    assert attempt.verdict(1e6, SECONDS) is None


@pytest.mark.parametrize(
    ("scenario", "code"), [("image-never", "image_pull"), ("pod-security-bad", "not_allowed")]
)
def test_what_can_never_run_ends_at_once(scenario, code) -> None:
    """Waiting would be in vain."""
    _, _, verdict = replay(scenario)
    assert isinstance(verdict, Ended) and verdict.code == code


def test_details_name_the_job_the_pod_the_node_and_the_exit() -> None:
    """For whoever looks for it in the cluster."""
    _, _, verdict = replay("termination-message")
    assert verdict.details["job"] == "termination-message" and verdict.details["node"] == "vm"
    assert verdict.details["pod"].startswith("termination-message-")
    assert "exit_code" in verdict.details and verdict.details["termination_message"]


def test_a_pod_that_goes_before_it_ran_returns_its_launch() -> None:
    """But not when nobody saw whether it ran."""
    for unseen, kind in ((False, Returned), (True, Ended)):
        attempt = Attempt(LAUNCH, "image-pull")
        for row in SCENARIOS["image-pull"]:
            seen(attempt, *row)
        attempt.pod_gone, attempt.unseen = True, unseen
        attempt.look(0.0)
        assert isinstance(attempt.verdict(0.0, SECONDS), kind)


def test_a_pod_whose_node_is_gone_is_not_waited_for() -> None:
    """Nobody is left who could say that it has ended."""
    attempt = Attempt(LAUNCH, "success")
    for row in SCENARIOS["success"]:
        seen(attempt, *row)
        if attempt.ran:
            break
    assert attempt.verdict(0.0, SECONDS) is None
    gone = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    attempt.pod = {**attempt.pod, "status": {**attempt.pod["status"], "conditions": [gone]}}
    ended = attempt.verdict(0.0, SECONDS)
    assert ended.code == "worker_lost" and "node" in ended.message and ended.retryable
