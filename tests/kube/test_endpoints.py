"""What a real cluster's EndpointSlices said of a Deployment's pods, and what the pool makes of it."""

import json
from pathlib import Path

from mcp_pools.kube.endpoints import endpoints

RECORDED = Path(__file__).parent.parent / "recordings" / "endpointslices.jsonl"
"""One event a line, [kind of change, slice]: a pod comes, is deleted and replaced, then there are three."""
POD = {"kind": "Pod", "name": "a", "uid": "1"}


def slice_of(*entries, name="s-1", family="IPv4", ports=({"name": "mcp", "port": 8680},)):
    """An EndpointSlice."""
    return {"metadata": {"name": name}, "addressType": family, "endpoints": list(entries), "ports": ports}


def test_pods_come_are_ready_and_go_as_they_did_on_a_real_cluster() -> None:
    """One that is to go is no more ready, though it serves."""
    told = []
    for _, slice in map(json.loads, RECORDED.read_text().splitlines()[:-1]):
        found = endpoints([slice], "mcp").values()
        told.append({each.address[-2:]: (each.ready, each.terminating) for each in found})
    new, ready, going = (False, False), (True, False), (False, True)
    assert told[:7] == [
        {},
        {"77": new},
        {"77": ready},
        {"77": going},
        {"77": going, "78": new},
        {"77": going, "78": ready},
        {"78": ready},
    ]
    assert told[-1] == {"78": ready, "79": ready, "80": ready}


def test_a_pod_in_two_slices_is_one() -> None:
    """One for each family, or two for a moment: IPv4, then the first by name counts."""
    four, six = {"addresses": ["10.0.0.1"], "targetRef": POD}, {"addresses": ["fd00::1"], "targetRef": POD}
    found = endpoints(
        [slice_of(six, family="IPv6", name="s-0"), slice_of(four), slice_of(four, name="s-2")], "mcp"
    )
    assert [each.url for each in found.values()] == ["http://10.0.0.1:8680/mcp"]
    (only,) = endpoints([slice_of(six, family="IPv6")], "mcp").values()
    assert only.url == "http://[fd00::1]:8680/mcp" and only.ready


def test_what_is_no_pod_with_our_port_is_passed_over() -> None:
    """Names, other ports, entries without an address."""
    named = {"addresses": ["a.example"], "targetRef": POD}
    entry = {"addresses": ["10.0.0.1"], "targetRef": POD}
    for slice in (
        slice_of(named, family="FQDN"),
        slice_of(entry, ports=None),
        slice_of(entry, ports=[{"name": "web", "port": 80}]),
        slice_of({**entry, "targetRef": None}),
        slice_of({**entry, "addresses": []}),
    ):
        assert not endpoints([slice], "mcp")


def test_a_pod_at_another_address_is_another_one() -> None:
    """Its sandbox was made anew; by its uid alone it would be looked for at the old place."""
    old = endpoints([slice_of({"addresses": ["10.0.0.1"], "targetRef": POD})], "mcp")
    new = endpoints([slice_of({"addresses": ["10.0.0.2"], "targetRef": POD})], "mcp")
    assert not old.keys() & new.keys()
