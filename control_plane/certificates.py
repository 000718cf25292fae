"""Whom a process of ours trusts on the network, and who it is there, by certificates."""

import re
import ssl
from pathlib import Path

import httpx

from control_plane.errors import BadInput


def tls_context(
    ca_file: Path | None = None, *, certificate_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Whom to trust, by default whom this machine does (``SSL_CERT_FILE``), and who we are. BadInput for bad files."""
    for file, field in (
        (ca_file, "tls.ca_file"),
        (certificate_file, "tls.client_certificate_file"),
        (key_file, "tls.client_key_file"),
    ):
        _check_readable(file, field)
    try:
        context = httpx.create_ssl_context() if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
    except ssl.SSLError as error:
        message = f"tls.ca_file: {ca_file} holds no certificates, as -----BEGIN CERTIFICATE----- begins one"
        raise BadInput(message, field="tls.ca_file") from error
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, key_file)
        except (OSError, ssl.SSLError) as error:
            key = (
                "its key, which has to be in it or in tls.client_key_file"
                if key_file is None
                else f"the key {key_file}"
            )
            message = f"tls.client_certificate_file: {certificate_file} cannot be used with {key}: {_reason(error)}"
            raise BadInput(message, field="tls.client_certificate_file") from error
    return context


def _check_readable(file: Path | None, field: str) -> None:
    if file is None:
        return
    try:
        file.read_bytes()
    except OSError as error:
        raise BadInput(f"{field}: {file} cannot be read: {error.strerror}", field=field) from error


def _reason(error: OSError) -> str:
    """OpenSSL's words alone, of such as ``[SSL] PEM lib (_ssl.c:3926)``."""
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", str(error))
