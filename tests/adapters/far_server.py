"""Other people's MCP servers, in processes of their own."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


class FarServer:
    """A program of this directory that serves at a port, which it keeps."""

    def __init__(self, program, *flags):
        with socket.create_server(("127.0.0.1", 0)) as door:
            self.port = door.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.argv = [sys.executable, str(HERE / program), str(self.port), *flags]
        self.start()

    def start(self):
        """Start it, and wait until it takes connections."""
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            assert self.process.poll() is None
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", self.port)) == 0:
                    return

    def kill(self):
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def running(program, *flags):
    """Such a server, as long as the block lasts."""
    server = FarServer(program, *flags)
    try:
        yield server
    finally:
        server.kill()
