"""How a Connect server is found, and how what is there is named."""

from uuid import UUID

import pytest

from adapters.narrative.spark_connect_names import Operation, Server, Session, operation_of, session_of
from control_plane.errors import BadInput

TAG = f"countermand:tests:{UUID(int=5)}:{UUID(int=7)}:run"
SESSION, OPERATION = str(UUID(int=1)), str(UUID(int=2))


def test_the_names_of_a_tag_never_change() -> None:
    """What runs under them would not be found any more."""
    assert session_of("countermand", TAG).session_id == "8cd6e8f1-814b-5a01-95e7-5d6aa62626fd"
    assert operation_of(TAG) == "deca4b60-8e63-5c71-a408-4d99187f53bc"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("sc://spark.example", Server("spark.example:15002")),
        ("sc://spark.example:7", Server("spark.example:7")),
        ("sc://spark.example:7/;use_ssl=true", Server("spark.example:7", tls=True)),
    ],
)
def test_a_server_is_found_by_sparks_own_url(url: str, server: Server) -> None:
    assert Server.at(url) == server


def test_a_token_is_sent_by_tls_alone() -> None:
    assert Server.at("sc://spark.example", token="secret") == Server("spark.example:15002", tls=True, token="secret")


@pytest.mark.parametrize("url", ["", "spark.example:7", "http://spark.example", "sc://", "sc://a/;user_id=x"])
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="connect_url"):
        Server.at(url)


@pytest.mark.parametrize("user", ["dbt", "a/b", "dbt@example.com"])
def test_work_that_was_started_elsewhere_is_named_by_user_session_and_operation(user: str) -> None:
    operation = Operation(Session(user, SESSION), OPERATION)

    assert Operation.named(operation.name) == operation


@pytest.mark.parametrize(
    "name",
    ["", OPERATION, f"{SESSION}/{OPERATION}", f"/{SESSION}/{OPERATION}", f"dbt/{SESSION}/x", f"dbt/x/{OPERATION}"],
)
def test_what_is_no_such_name_names_nothing(name: str) -> None:
    assert Operation.named(name) is None
