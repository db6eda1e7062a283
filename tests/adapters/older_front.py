"""A front before a server that knows nothing of the protocol of 2026: what is behind it speaks 2025-11-25."""

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

PASSED_ON = ("content-type", "mcp-session-id", "accept", "mcp-protocol-version", "x-mcp-pools-depth")


@asynccontextmanager
async def older_front(url):
    """The front's URL. All but the question which protocols there are is passed on, as it comes."""
    async with httpx2.AsyncClient(timeout=None, trust_env=False) as http:

        async def pass_on(request):
            body = await request.body()
            if b'"server/discover"' in body:
                return Response("Bad Request", 400)
            headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
            asked = http.build_request(request.method, url, content=body, headers=headers)
            answer = await http.send(asked, stream=True)
            kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)

        route = Route("/mcp", pass_on, methods=["GET", "POST", "DELETE"])
        config = uvicorn.Config(
            Starlette(routes=[route]), log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        with socket.create_server(("127.0.0.1", 0)) as door:
            serving = asyncio.create_task(server.serve(sockets=[door]))
            try:
                yield f"http://127.0.0.1:{door.getsockname()[1]}/mcp"
            finally:
                server.should_exit = True
                await serving
