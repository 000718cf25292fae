"""Signing in to the double: by password, key pair and token."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from snowflake.connector.errors import Error

from tests.integration.snowflake.given import WAREHOUSE, rows, value
from tests.snowflake import SnowflakeDouble


def test_a_password_signs_in_with_the_users_default_role(double: SnowflakeDouble) -> None:
    with double.connect("EXECUTOR", warehouse=WAREHOUSE) as connection:
        found = rows(connection, "SELECT CURRENT_USER(), CURRENT_ROLE(), CURRENT_WAREHOUSE(), CURRENT_SESSION()")

    assert found == [("EXECUTOR", "COUNTERMAND_EXECUTOR", WAREHOUSE, str(connection.session_id))]


def refusal(double: SnowflakeDouble, user: str, **options: Any) -> int | None:
    with pytest.raises(Error) as refused, double.connect(user, **options):
        pass
    return refused.value.errno


def test_a_wrong_password_and_an_unknown_user_are_refused_alike(double: SnowflakeDouble) -> None:
    assert refusal(double, "EXECUTOR", password="wrong") == 390100
    assert refusal(double, "NOBODY") == 390100


def test_a_disabled_user_is_refused(double: SnowflakeDouble, own_user: str) -> None:
    double.administer(f"ALTER USER {own_user} SET DISABLED = TRUE")

    assert refusal(double, own_user) == 390101


def test_a_role_that_was_not_granted_is_refused(double: SnowflakeDouble) -> None:
    assert refusal(double, "EXECUTOR", role="ACCOUNTADMIN") == 390189


def new_key(path: Path, encryption: KeySerializationEncryption) -> str:
    """Write a private key; answers its public half as ALTER USER takes it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return "".join(public.splitlines()[1:-1])


@pytest.mark.parametrize("password", [None, "a password of the file"])
def test_a_key_pair_signs_in_with_the_key_that_the_user_has(
    double: SnowflakeDouble, own_user: str, tmp_path: Path, password: str | None
) -> None:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    public_key = new_key(tmp_path / "key.p8", encryption)
    key_pair = {"authenticator": "SNOWFLAKE_JWT", "private_key_file": str(tmp_path / "key.p8"), "password": None}

    double.administer(f"ALTER USER {own_user} SET RSA_PUBLIC_KEY = '{public_key}'")

    with double.connect(own_user, **key_pair, private_key_password=password) as connection:
        assert value(connection, "SELECT CURRENT_USER()") == own_user


def test_another_key_of_the_same_kind_is_refused(double: SnowflakeDouble, own_user: str, tmp_path: Path) -> None:
    public_key = new_key(tmp_path / "key.p8", NoEncryption())
    new_key(tmp_path / "other.p8", NoEncryption())

    double.administer(f"ALTER USER {own_user} SET RSA_PUBLIC_KEY = '{public_key}'")

    other = str(tmp_path / "other.p8")
    assert refusal(double, own_user, authenticator="SNOWFLAKE_JWT", private_key_file=other) == 390144


def test_a_programmatic_access_token_signs_its_own_user_in(double: SnowflakeDouble, own_user: str) -> None:
    (token,) = double.administer(f"ALTER USER {own_user} ADD PROGRAMMATIC ACCESS TOKEN t")
    options = {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": token, "password": None}

    with double.connect(own_user, **options) as connection:
        assert value(connection, "SELECT CURRENT_USER()") == own_user
    assert refusal(double, "EXECUTOR", **options) == 394400


def test_an_oauth_token_signs_in_whom_it_was_issued_to(double: SnowflakeDouble) -> None:
    token = secrets.token_hex(16)
    double.issue_oauth_token("CANCELLER", token)

    with double.connect("CANCELLER", authenticator="OAUTH", token=token, password=None) as connection:
        assert value(connection, "SELECT CURRENT_USER()") == "CANCELLER"
    assert refusal(double, "EXECUTOR", authenticator="OAUTH", token=token, password=None) == 390303
