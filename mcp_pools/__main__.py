"""The entry point: sends each command to the one part that does it, and imports no other."""

import sys


def main() -> int:
    """Run the `mcp-pools` command; the exit status."""
    try:
        return _dispatch(sys.argv[1:])
    except KeyboardInterrupt:  # between two imports; later each part has its own last words
        return 130


def _dispatch(argv: list[str]) -> int:
    if argv == ["--version"]:
        from mcp_pools import __version__

        sys.stdout.write(f"mcp-pools {__version__}\n")
        return 0
    if argv[:1] == ["serve"]:
        from mcp_pools import serve

        return serve.main(argv[1:])
    from mcp_pools import console

    return console.main(argv)


if __name__ == "__main__":
    sys.exit(main())
