"""What refusals of an API server come to."""

import pytest

from mcp_pools.kube.api import ApiError, unopened


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (0, "pool_unreachable", "readyz"),
        (403, "pool_unreachable", "rbac.yaml"),
        (404, "pool_unreachable", "namespace"),
        (422, "invalid_payload", "pod_template"),
        (503, "pool_unreachable", "readyz"),
    ],
)
def test_a_pool_that_cannot_begin_says_what_to_do(status, code, advice) -> None:
    """About rights, the namespace, the definition, or the cluster; only the definition is wrong for good."""
    refused = unopened(ApiError(status, "Word", "the words of the server"))
    assert (refused.code, refused.retryable) == (code, code == "pool_unreachable")
    assert "the words of the server" in refused.message and advice in refused.next
