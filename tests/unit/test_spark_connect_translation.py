"""What gRPC says of a call to a Connect server names the setting where a wrong one is what mostly brings it about."""

import pytest
from grpc import StatusCode, aio

from adapters.narrative.spark_connect_errors import LineError
from adapters.narrative.spark_connect_translation import translated
from control_plane.jobs import Waiting


def told(code: StatusCode, details: str) -> LineError:
    """Our words for it."""
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=details)
    return translated(error, address="s:15002", user="ada")


@pytest.mark.parametrize("details", ["failed to connect to all addresses", "Tls handshake failed"])
def test_where_no_connect_server_answers_the_address_is_named_and_what_turns_tls_on(details: str) -> None:
    error = told(StatusCode.UNAVAILABLE, details)

    assert error.trouble.waiting is Waiting.PLANE_SILENT
    assert error.message.startswith(f"s:15002 cannot be reached: {details}; connect_url in [spark] has to be where")
    assert "TLS is spoken with /;use_ssl=true, connect_token or connect_ca_file, and not otherwise" in error.message


def test_a_server_that_takes_no_such_token_is_told_by_the_tokens_setting() -> None:
    error = told(StatusCode.UNAUTHENTICATED, "No authentication token provided")

    assert error.trouble.waiting is Waiting.NOT_PERMITTED
    assert error.message.endswith("No authentication token provided; connect_token in [spark] has to be its token")


def test_a_call_that_takes_too_long_is_blamed_on_no_setting() -> None:
    assert "in [spark]" not in told(StatusCode.DEADLINE_EXCEEDED, "too late").message
