"""What has been: finding tasks again, counting them, following what happens.

Cursors are opaque texts. Each names the home and the question it belongs to, so that one
that is handed to another home, or to another question, is refused instead of misread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mcp_pools.errors import PoolsError
from mcp_pools.models import Event, RecallPage, Stats, Status, Task, TaskPage
from mcp_pools.present import event_view, stats_view, task_view
from mcp_pools.recall import recalling
from mcp_pools.store import EventRow, Found, Search, Store

if TYPE_CHECKING:
    from mcp_pools.settings import Settings

SHORT_RESULT: Final = 2000
"""Characters of JSON; a longer result is left out of a list of tasks."""

SHORT_OUTPUT: Final = 200
"""Characters of its output's end that a task shows in a list."""

MOST_TASKS: Final = 100

LATEST_EVENTS: Final = 50
"""Events without a cursor."""

MOST_EVENTS: Final = 200
"""Events in one answer."""

LONGEST_WATCH: Final = 30.0
"""Seconds that one call may wait for an event."""


class History:
    """Reads what the store keeps.

    Args:
        living: a task that has not ended, as it stands, by its id; `None` for any other.
        settings: with `memory_search`, a search asks the configured memories, too.
    """

    def __init__(self, store: Store, living: Callable[[str], Task | None], settings: Settings) -> None:
        self._store = store
        self._living = living
        self._memories = recalling(settings)

    async def search(
        self,
        *,
        query: str = "",
        pool: str | None = None,
        task_type: str | None = None,
        status: Status | None = None,
        since: datetime | None = None,
        limit: int = 20,
        cursor: str | None = None,
        caller: str | None = None,
    ) -> TaskPage:
        """Tasks that match all that is given, newest first; see the tool `pool_search`.

        `caller`: only the tasks of that name. Memories do not know whose is what: they are asked
        for callers alone who see everything, and for the first page of a query.

        Raises:
            PoolsError: `invalid_payload` for a cursor of another home or question, or a limit
                that is not 1 to 100.
        """
        if not 1 <= limit <= MOST_TASKS:
            raise PoolsError("invalid_payload", f"limit is {limit}.", f"Give 1 to {MOST_TASKS}.")
        after = None if since is None else _aware(since).timestamp()
        question = await self._question("pool_search", query, pool, task_type, status, after, caller)
        before = None if cursor is None else read_cursor(cursor, "pool_search", question)
        searched = self._store.search(
            Search(
                query=query,
                pool=pool,
                task_type=task_type,
                caller=caller,
                status=status,
                since=after,
                before=before,
                limit=limit + 1,
                result_bytes=4 * SHORT_RESULT,
            )
        )
        if self._memories is None or caller is not None or before is not None or not query.strip():
            return self._page(await searched, limit, question)
        found, memories = await asyncio.gather(searched, self._memories.ask(query))
        page = self._page(found, limit, question)
        return RecallPage(tasks=page.tasks, next_cursor=page.next_cursor, memories=memories)

    def _page(self, found: Sequence[Found], limit: int, question: str) -> TaskPage:
        shown, more = found[:limit], len(found) > limit
        tasks = [self._listed(each, time.time()) for each in shown]
        return TaskPage(tasks=tasks, next_cursor=cursor_at(shown[-1].place, question) if more else None)

    def _listed(self, found: Found, now: float) -> Task:
        """A task as a list shows it; one that lives with what only its owner knows."""
        living = self._living(found.row.task_id)
        task = task_view(found.row, now) if living is None or living.status != found.row.status else living
        return shortened(task, found.shortened or len((found.row.result or b"").decode()) > SHORT_RESULT)

    async def stats(self, by_type: bool = False) -> Stats:
        """Everything that is kept, in numbers."""
        return stats_view(await self._store.tally(), by_type)

    async def watch(
        self, cursor: str | None = None, wait_seconds: float = 0.0, caller: str | None = None
    ) -> tuple[list[Event], str]:
        """Events behind a cursor, at most `MOST_EVENTS`, or the latest; and the cursor behind them.

        Waits up to `wait_seconds` while there is none; a commit ends the wait at once. With
        `caller`, events of others' tasks and distributions are passed over.

        Raises:
            PoolsError: `invalid_payload` for a cursor of another home.
        """
        question = await self._question("pool_watch")
        after = None if cursor is None else read_cursor(cursor, "pool_watch", question)
        deadline = time.monotonic() + wait_seconds
        while True:
            woken = self._store.next_commit()  # before looking: what comes in between is not missed
            newest = await self._store.latest_events(1)
            rows = await self._events(after, caller)
            after = rows[-1][0] if rows else max(after or 0, newest[-1][0] if newest else 0)
            left = deadline - time.monotonic()
            if rows or left <= 0:
                return [event_view(*each) for each in rows], cursor_at(after, question)
            await asyncio.wait({woken}, timeout=left)

    async def _events(self, after: int | None, caller: str | None) -> list[tuple[int, EventRow]]:
        if after is None:
            return await self._store.latest_events(LATEST_EVENTS, caller)
        return await self._store.events(after, MOST_EVENTS, caller)

    async def _question(self, *asked: object) -> str:
        """What a cursor is bound to: this home, and what is asked of it."""
        said = json.dumps([await self._store.identity(), *asked])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def shortened(task: Task, without_result: bool) -> Task:
    """A task in a list: the end of its output, and of a long result where to get it."""
    if task.output_tail:
        task = replace(task, output_tail=task.output_tail[-SHORT_OUTPUT:])
    if without_result:
        task = replace(task, result=None, next=f'pool_task(task_id="{task.task_id}")')
    return task


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def cursor_at(place: int, question: str) -> str:
    """A cursor that goes on behind a place."""
    return base64.urlsafe_b64encode(f"{question}.{place}".encode()).decode().rstrip("=")


def behind(cursor: str, place: int) -> str:
    """A cursor of the same question that goes on behind another place."""
    return cursor_at(place, _parts(cursor)[0])


def _parts(cursor: str) -> tuple[str, str]:
    """The question and the place in a cursor, as they stand there."""
    padded = cursor + "=" * (-len(cursor) % 4)
    of, _, place = base64.urlsafe_b64decode(padded.encode()).decode().partition(".")
    return of, place


def read_cursor(cursor: str, tool: str, question: str) -> int:
    """The place a cursor goes on behind; raises `PoolsError` `invalid_payload` for another question's."""
    try:
        of, place = _parts(cursor)
        at = int(place)
    except (ValueError, UnicodeError):
        of, at = "", 0
    if of != question or not 0 <= at < 1 << 62:
        raise PoolsError(
            "invalid_payload",
            f"The cursor {cursor[:40]!r} is not of this home and these arguments.",
            f"Call {tool} without a cursor, and pass on the one it returns with the same arguments.",
        )
    return at
