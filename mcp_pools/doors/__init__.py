"""The ways into an owner: lines, hellos, calls and sessions. `bridge` and `owner` put them together."""
