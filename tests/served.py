"""`mcp-pools serve --http` in a process of its own, and ways to reach it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcp import Client

CONSOLE = str(Path(sys.executable).parent / "mcp-pools")
HEADERS = {"Content_Type": "application/json", "Accept": "application/json, text/event-stream"}
LEGACY = {"MCP_Protocol_Version": "2025-11-25"}
Answer = tuple[int, Any]


class Server:
    """A server process, and ways to reach it."""

    def __init__(self, home: Path, environment: dict[str, str], *flags: str) -> None:
        self.home = home
        self.environment = environment
        self.process = subprocess.Popen(
            [CONSOLE, "serve", "--http", "127.0.0.1:0", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.url = self.said.partition(" at ")[2].partition(" ")[0]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def client(self, mode: Any = "auto") -> Client:
        """The SDK's client."""
        return Client(self.url, mode=mode)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request as it is written here; the status, and the body, read as JSON where it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def post(self, message: Any, **headers: str) -> Answer:
        """One message to `/mcp`."""
        body = message if isinstance(message, str) else json.dumps(message)
        return self.ask("POST", "/mcp", body, **(HEADERS | headers))

    def console(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A console command with `--server`."""
        return self.run(*arguments, "--server", self.url)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A console command on the same home."""
        return subprocess.run(
            [CONSOLE, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


def modern(method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A request of 2026-07-28 and its headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method}
    return message, headers | ({"Mcp_Name": params["name"]} if "name" in params else {})
