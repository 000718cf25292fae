"""How a worker or an executor knows the control plane by its certificate, and is known by its own."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from config.section import Section, allowed


def check_key_file(file: Path | None, info: ValidationInfo) -> Path | None:
    """Accept a key for the certificate beside it; without one it is looked for in the certificate's own file."""
    if file is not None and info.data.get("client_certificate_file", "wrong") is None:
        raise allowed("absent without client_certificate_file, whose key it would be")
    return file


class TlsSettings(Section):
    """How a worker or an executor knows the control plane by its certificate, and is known by its own."""

    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Annotated[Path | None, AfterValidator(check_key_file)] = None
