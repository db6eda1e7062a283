"""Every pool type, through the same suite."""

import pytest
from conformance import Conformance

from mcp_pools.adapters.local import AHEAD, LocalPool

pytestmark = pytest.mark.anyio


class TestLocal(Conformance):
    """Worker processes of this machine."""

    ahead = AHEAD

    def make(self, spec, surroundings):
        """A local pool."""
        return LocalPool(spec, surroundings)
