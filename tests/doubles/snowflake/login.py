"""Signing in: by password, key pair, programmatic access token or OAuth token."""

import base64
import binascii
import hashlib
import time
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from msgspec import Struct

from tests.doubles.snowflake.account import NAME, Account, User
from tests.doubles.snowflake.errors import RejectedError

CLOCK_SKEW_SECONDS = 60


class Credentials(Struct, rename="upper"):
    """What a login request brings; a request without an authenticator brings a password."""

    login_name: str = ""
    password: str = ""
    authenticator: str = "SNOWFLAKE"
    token: str = ""
    session_parameters: dict[str, Any] = {}


class _Claims(Struct):
    iss: str
    sub: str
    iat: int
    exp: int


def sign_in(account: Account, credentials: Credentials) -> User:
    """Whose credentials these are. Raises RejectedError, which tells nobody what was wrong beyond its kind."""
    match credentials.authenticator.upper():
        case "SNOWFLAKE":
            user = _by_password(account, credentials)
        case "SNOWFLAKE_JWT":
            user = _by_key_pair(account, credentials)
        case "PROGRAMMATIC_ACCESS_TOKEN":
            user = _by_access_token(account, credentials)
        case "OAUTH":
            user = _by_oauth(account, credentials)
        case other:
            raise RejectedError("390129", f"Authenticator {other} is not supported by this account", "08001")
    if user.disabled:
        raise RejectedError("390101", "User temporarily locked or disabled.", "08001")
    return user


def chosen_role(account: Account, user: User, asked: str) -> str:
    """The role to begin with. Raises RejectedError when the user does not have it."""
    role = asked.upper() or user.default_role
    granted = {inherited for held in user.roles for inherited in account.inherited(held)}
    if role not in granted:
        raise RejectedError(
            "390189", f"Role '{role}' specified in the connect string is not granted to this user.", "08001"
        )
    return role


def read_public_key(text: str) -> RSAPublicKey:
    """A key as ``ALTER USER … SET RSA_PUBLIC_KEY`` takes it: PEM, with or without its first and last line."""
    body = "".join(line.strip() for line in text.splitlines() if not line.startswith("-----"))
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey):
        raise ValueError("the key is not RSA")
    return key


def _by_password(account: Account, credentials: Credentials) -> User:
    user = account.signing_in(credentials.login_name)
    if user is None or user.password is None or user.password != credentials.password:
        raise RejectedError("390100", "Incorrect username or password was specified.", "08001")
    return user


def _by_key_pair(account: Account, credentials: Credentials) -> User:
    user = account.signing_in(credentials.login_name)
    if user is None or user.public_key is None or not _is_signed(credentials.token, user.name, user.public_key):
        raise RejectedError("390144", "JWT token is invalid.", "08001")
    return user


def _is_signed(token: str, name: str, key: RSAPublicKey) -> bool:
    try:
        signed, _, signature = token.rpartition(".")
        key.verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
        claims = msgspec.json.decode(_decoded(signed.partition(".")[2]), type=_Claims)
    except (InvalidSignature, binascii.Error, ValueError):  # msgspec's errors are ValueErrors
        return False
    subject = f"{NAME}.{name}"
    issuer = f"{subject}.SHA256:{_fingerprint(key)}"
    now = time.time()
    in_time = claims.iat - CLOCK_SKEW_SECONDS <= now < claims.exp
    return (claims.sub, claims.iss) == (subject, issuer) and in_time


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _fingerprint(key: RSAPublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def _by_access_token(account: Account, credentials: Credentials) -> User:
    user = account.signing_in(credentials.login_name)
    if user is None or credentials.token not in user.tokens:
        raise RejectedError("394400", "Programmatic access token is invalid.", "08001")
    return user


def _by_oauth(account: Account, credentials: Credentials) -> User:
    name = account.oauth_tokens.get(credentials.token)
    if name is None or (credentials.login_name and credentials.login_name.upper() != name.upper()):
        raise RejectedError("390303", "Invalid OAuth access token.", "08001")
    return account.user(name)
