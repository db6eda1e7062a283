"""Who may say as whom and how work runs on a cluster."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller
from mcp_pools.tools import pool_register
from mcp_pools.tools.pools import TRUSTED

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("option", TRUSTED)
async def test_an_mcp_client_may_not_set_it(tmp_path, option) -> None:
    """A pod template could ask for the whole node."""
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        client = router.bound(Caller(kind="mcp"))
        with pytest.raises(PoolsError) as refused:
            await pool_register(client, name="cloud", type="kubernetes", options={option: {}})
    assert refused.value.code == "not_allowed" and option in str(refused.value)
