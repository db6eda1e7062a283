"""Certificates for servers of the tests, made on the spot."""

import ssl
from pathlib import Path

import trustme


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for `name`, and a client's that trusts it; `authority.pem` is why."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(serving)
    return serving, ssl.create_default_context(cafile=str(folder / "authority.pem"))
