"""The human's word over MCP, in both protocol eras: `mcp_pools.confirmation`, `mcp_pools.questions`."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, ElicitResult
from transports import session_transport

from mcp_pools import Router
from mcp_pools.models import Caller
from mcp_pools.tools import pool_close, pool_distribute, pool_list, pool_register, pool_task

pytestmark = pytest.mark.anyio

Asking = Callable[..., AbstractAsyncContextManager[Client]]


class Human:
    """Answers what it is asked, and remembers it."""

    def __init__(self, action: str = "accept", confirm: bool | None = True) -> None:
        self.action = action
        self.confirm = confirm
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        """As the client's callback."""
        self.asked.append(params.message)
        content = None if self.confirm is None else {"confirm": self.confirm}
        return ElicitResult(action=self.action, content=content if self.action == "accept" else None)


@pytest.fixture(params=["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
def asking(router: Router, request: pytest.FixtureRequest) -> Asking:
    """`async with asking(human) as client`: a client of an MCP session, which may ask that human."""

    def connect(human: Human | None = None, **keys: Any) -> AbstractAsyncContextManager[Client]:
        bound = router.bound(Caller(kind="mcp", cwd="/", patience=10.0))
        return Client(session_transport(bound, {}), mode=request.param, elicitation_callback=human, **keys)

    return connect


async def closed(client: Client, name: str = "extra", **arguments: Any) -> CallToolResult:
    """What closing a pool is answered with."""
    return await client.call_tool("pool_close", {"name": name, **arguments})


async def names(router: Router) -> set[str]:
    """The pools there are."""
    return {pool.name for pool in (await pool_list(router)).pools}


async def test_a_pool_closes_when_its_human_agrees(router: Router, asking: Asking) -> None:
    """The question says what will be lost, with the numbers of the moment."""
    await pool_register(router, name="extra", type="local", max_workers=1)
    human = Human()
    async with asking(human) as client:
        answer = await closed(client, force=True)
    assert not answer.is_error and "extra" not in await names(router)
    [question] = human.asked
    assert "'extra'" in question and "0 running" in question and "cancelled at once" in question


@pytest.mark.parametrize(
    "human",
    [Human("decline"), Human("cancel"), Human(confirm=False), Human(confirm=None)],
    ids=["declines", "cancels", "says no", "says nothing"],
)
async def test_nothing_closes_when_its_human_does_not(router: Router, asking: Asking, human: Human) -> None:
    """A no, no answer, and a yes without the tick are all no."""
    await pool_register(router, name="extra", type="local", max_workers=1)
    async with asking(human) as client:
        answer = await closed(client)
    assert answer.is_error and answer.structured_content["error"]["code"] == "confirmation_required"
    assert "extra" in await names(router) and len(human.asked) >= 1


async def test_a_client_that_cannot_ask_is_refused_with_the_way_out(router: Router, asking: Asking) -> None:
    """The console, or a setting."""
    await pool_register(router, name="extra", type="local", max_workers=1)
    async with asking() as client:
        answer = await closed(client)
    assert answer.is_error and "extra" in await names(router)
    error = answer.structured_content["error"]
    assert error["code"] == "confirmation_required" and "mcp_confirm" in error["next"]


async def test_a_setting_spares_the_question(open_router: Any, request: pytest.FixtureRequest) -> None:
    """For headless use."""
    async with open_router(mcp_confirm="never") as router:
        await pool_register(router, name="extra", type="local", max_workers=1)
        bound = router.bound(Caller(kind="mcp"))
        async with Client(session_transport(bound, {})) as client:
            assert not (await closed(client)).is_error


async def test_cancelling_a_distribution_is_asked_for_and_a_task_is_not(
    router: Router, asking: Asking, gate: Any
) -> None:
    """It says how many of how many items have not ended."""
    payload = {"gate": str(gate.path), "items": [1, 2, 3]}
    whole = await pool_distribute(router, task_type="hold", payload=payload, wait=False)
    human = Human()
    async with asking(human) as client:
        single = await client.call_tool("pool_cancel", {"task_id": whole.results[2].task_id})
        assert not single.is_error and human.asked == []
        answer = await client.call_tool("pool_cancel", {"task_id": whole.distribution_id})
    assert answer.structured_content["cancelled"] is True
    assert "2 of 3 items have not ended" in human.asked[0]
    assert (await pool_task(router, whole.distribution_id)).status == "cancelled"


async def test_work_leaves_this_machine_only_with_somebodys_word(router: Router, asking: Asking) -> None:
    """The question comes before anything is reached; a local pool is nobody's question."""
    human = Human("decline")
    away = {"name": "away", "type": "kubernetes", "container_image": "evil:latest"}
    async with asking(human) as client:
        answer = await client.call_tool("pool_register", away)
        assert answer.structured_content["error"]["code"] == "confirmation_required"
        assert "evil:latest" in human.asked[0] and "leave this machine" in human.asked[0]
        near = await client.call_tool("pool_register", {"name": "near", "type": "local"})
        assert not near.is_error and len(human.asked) == 1


async def test_bad_arguments_are_refused_before_anybody_is_asked(router: Router, asking: Asking) -> None:
    """There is nothing to agree to."""
    human = Human()
    async with asking(human) as client:
        missing = await closed(client, name="nowhere")
        assert missing.structured_content["error"]["code"] == "unknown_pool"
        wrong = await client.call_tool("pool_close", {"name": "local", "force": "perhaps"})
        assert wrong.structured_content["error"]["code"] == "invalid_payload"
    assert human.asked == []


async def test_consoles_and_python_are_never_asked(router: Router) -> None:
    """The command is the human's word."""
    await pool_register(router, name="extra", type="local", max_workers=1)
    assert (await pool_close(router.bound(Caller(kind="console")), "extra")).status == "closed"


async def test_a_forged_answer_counts_for_nothing(router: Router) -> None:
    """Nor one without its state, nor one whose state is another call's."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import CallToolRequest, CallToolRequestParams

    await pool_register(router, name="extra", type="local", max_workers=1)
    bound = router.bound(Caller(kind="mcp"))
    yes = {"confirm": ElicitResult(action="accept", content={"confirm": True})}
    human = Human("decline")

    def call(**extra: Any) -> Any:
        params = CallToolRequestParams(name="pool_close", arguments={"name": "extra"}, **extra)
        return CallToolRequest(params=params)

    async with Client(session_transport(bound, {}), elicitation_callback=human) as client:
        for state in ("asked", "v1.forged"):
            with pytest.raises(MCPError):
                await client.session.send_request(
                    call(input_responses=yes, request_state=state), CallToolResult
                )
    assert "extra" in await names(router)


async def test_the_key_is_its_users_alone_and_lasts(router: Router, home: Path) -> None:
    """The next owner opens what this one sealed."""
    bound = router.bound(Caller(kind="mcp"))
    async with Client(session_transport(bound, {})):
        file = home / "request_state.key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(file.read_bytes()) == 32
