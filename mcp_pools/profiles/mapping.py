"""Any MCP server: the option `tools` maps task types to its tools.

    tools:
      prompt: {tool: ask_agent, arguments: {question: "{payload.prompt}", limit: "{task.timeout}"}}
      transform: reshape

Without `arguments`, the payload is the arguments. In them, `{payload}`, `{payload.KEY}` and the same of
`task` (`id`, `attempt_id`, `attempt`, `type`, `timeout` in seconds) are filled in by the rules of `{item}`:
a text that is nothing but one placeholder becomes the value itself. What the tool answers is the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_pools.adapter import Ended, Launch
from mcp_pools.errors import PoolsError
from mcp_pools.filling import fill_named
from mcp_pools.one_call import ANSWER_SECONDS, Asked, OneCall
from mcp_pools.profile import LOOK_SECONDS

if TYPE_CHECKING:
    from mcp_pools.far_pool import FarPool
    from mcp_pools.models import PoolSpec


@dataclass(frozen=True, slots=True)
class Step:
    """A tool, and a template of its arguments; `None`: the payload."""

    tool: str
    arguments: dict[str, Any] | None = None

    def filled(self, launch: Launch) -> dict[str, Any]:
        """The arguments for a launch; raises `PoolsError` `invalid_payload` for a key that is not there."""
        payload = json.loads(launch.payload)
        if self.arguments is None:
            arguments: dict[str, Any] = payload
            return arguments
        task = {
            "id": launch.task_id,
            "attempt_id": launch.attempt_id,
            "attempt": launch.attempt,
            "type": launch.task_type,
            "timeout": launch.timeout,
        }
        values = {"payload": payload, "task": task}
        return {key: fill_named(each, values, whole=True) for key, each in self.arguments.items()}


class Mapping(OneCall):
    """A server whose tools the configuration names (`mcp_pools.profile.Profile`)."""

    name = "mapping"
    kind = "the server"
    options = frozenset({"tools"})

    def __init__(self, pool: FarPool) -> None:
        super().__init__(pool)
        self._steps = steps(pool.spec)

    @classmethod
    def suits(cls, spec: PoolSpec, tools: Iterable[str]) -> bool:
        """Whether the definition maps anything: what it says goes before what is found."""
        return "tools" in spec.options

    async def look(self) -> frozenset[str]:
        """See `Profile.look`. `PoolsError` `invalid_payload`: it does not offer a tool that is mapped to."""
        offered = await self.pool.line.tools(LOOK_SECONDS)
        for task_type, step in self._steps.items():
            if step.tool not in offered:
                raise PoolsError(
                    "invalid_payload",
                    f"The server at {self.pool.line.where} offers no tool {step.tool!r}, "
                    f"which options.tools maps {task_type} to.",
                    "Correct options.tools; mcp-pools discover shows what a server offers.",
                )
        return frozenset(self._steps)

    async def answer(self, errand: Asked) -> Ended:
        """See `OneCall.answer`. The structured content is the result, or `{"text"}` where there is none."""
        launch = errand.launch
        step = self._steps.get(launch.task_type)
        if step is None:  # it waited from before the definition changed
            raise PoolsError("unsupported", f"options.tools maps {launch.task_type} to nothing any more.")
        said = await self.pool.line.call(
            step.tool,
            step.filled(launch),
            seconds=launch.timeout + ANSWER_SECONDS,
            depth=launch.depth + 1,
            on_progress=errand.heard,
        )
        encoded = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
        return Ended(launch.attempt_id, None, encoded.encode(errors="replace"))


def steps(spec: PoolSpec) -> dict[str, Step]:
    """What a definition maps, by task type; raises `PoolsError` `invalid_payload` for another shape."""
    given = spec.options.get("tools")
    if not isinstance(given, dict) or not given:
        raise _invalid(spec, f"is {given!r}")
    return {str(type): _step(spec, str(type), each) for type, each in given.items()}


def _step(spec: PoolSpec, task_type: str, given: Any) -> Step:
    if isinstance(given, str) and given:
        return Step(given)
    if isinstance(given, dict) and set(given) <= {"tool", "arguments"}:
        tool, arguments = given.get("tool"), given.get("arguments")
        if isinstance(tool, str) and tool and isinstance(arguments, dict | None):
            return Step(tool, arguments)
    raise _invalid(spec, f"maps {task_type} to {given!r}")


def _invalid(spec: PoolSpec, problem: str) -> PoolsError:
    return PoolsError(
        "invalid_payload",
        f"options.tools of pool {spec.name!r} {problem}.",
        'Map task types to tools: {prompt: {tool: ask_agent, arguments: {question: "{payload.prompt}"}}}.',
    )
