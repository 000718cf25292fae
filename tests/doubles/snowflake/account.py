"""Who there is: users, roles, warehouses, and which role holds which privilege on what."""

from collections.abc import Iterable
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct, field

from tests.doubles.snowflake.errors import does_not_exist
from tests.doubles.snowflake.warehouses import Warehouse

NAME = "COUNTERMAND"
WAREHOUSE = "COMPUTE_WH"
EVERYBODY = "PUBLIC"
ADMINISTRATOR = "ACCOUNTADMIN"


def meant(identifier: str) -> str:
    """The name that is written so: in capitals, unless it stands in double quotes."""
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier.upper()


class User(Struct):
    """Somebody who can sign in."""

    name: str
    default_role: str = EVERYBODY
    roles: set[str] = field(default_factory=set)
    password: str | None = None
    public_key: RSAPublicKey | None = None
    tokens: set[str] = field(default_factory=set)  #: programmatic access tokens
    disabled: bool = False


class Grant(NamedTuple):
    """A privilege on an object, held by a role."""

    privilege: str
    kind: str  #: ``WAREHOUSE``, ``USER``, ``TASK``
    name: str
    role: str


class Account:
    """Everything that is granted; changed by SQL as in Snowflake (see :mod:`.administration`)."""

    def __init__(self, warehouses: Iterable[Warehouse] = ()) -> None:
        self.users: dict[str, User] = {}
        self.roles: dict[str, set[str]] = {EVERYBODY: set(), ADMINISTRATOR: {"SYSADMIN", "SECURITYADMIN"}}
        self.roles |= {"SYSADMIN": set(), "SECURITYADMIN": {"USERADMIN"}, "USERADMIN": set()}
        self.warehouses = {warehouse.name: warehouse for warehouse in warehouses}
        self.grants: set[Grant] = set()
        self.oauth_tokens: dict[str, str] = {}  #: user by token; issued elsewhere

    @classmethod
    def with_countermand(cls, *, capacity: int) -> Self:
        """One warehouse and five users, whose passwords are their names in small letters."""
        account = cls([Warehouse(WAREHOUSE, capacity=capacity)])
        account.grant("OWNERSHIP", "WAREHOUSE", WAREHOUSE, "SYSADMIN")
        for name, role in (
            ("EXECUTOR", "COUNTERMAND_EXECUTOR"),
            ("CANCELLER", "COUNTERMAND_CANCELLER"),
            ("DBT", "TRANSFORMER"),
            ("STRANGER", EVERYBODY),
            ("ADMIN", ADMINISTRATOR),
        ):
            account.roles.setdefault(role, set())
            account.add_user(User(name, role, {role}, password=name.lower()))
        for role in ("COUNTERMAND_EXECUTOR", "TRANSFORMER", EVERYBODY):
            account.grant("USAGE", "WAREHOUSE", WAREHOUSE, role)
        for privilege in ("OPERATE", "MONITOR"):
            account.grant(privilege, "WAREHOUSE", WAREHOUSE, "COUNTERMAND_CANCELLER")
        return account

    def add_user(self, user: User) -> None:
        """A new user, owned by USERADMIN as if that role had made it."""
        self.users[user.name] = user
        self.grant("OWNERSHIP", "USER", user.name, "USERADMIN")

    def grant(self, privilege: str, kind: str, name: str, role: str) -> None:
        """The role holds the privilege from now on."""
        self.grants.add(Grant(privilege, kind, name, role))

    def revoke(self, privilege: str, kind: str, name: str, role: str) -> None:
        """The role no longer holds the privilege."""
        self.grants.discard(Grant(privilege, kind, name, role))

    def user(self, name: str) -> User:
        """Raises SnowflakeError when there is none."""
        if (user := self.users.get(name)) is None:
            raise does_not_exist("User", name)
        return user

    def signing_in(self, login_name: str) -> User | None:
        """Whoever signs in by this name, which is their own in any letters."""
        return next((user for user in self.users.values() if user.name.upper() == login_name.upper()), None)

    def warehouse(self, name: str) -> Warehouse:
        """Raises SnowflakeError when there is none."""
        if (warehouse := self.warehouses.get(name)) is None:
            raise does_not_exist("Warehouse", name)
        return warehouse

    def inherited(self, role: str) -> set[str]:
        """The role, everything granted to it, and PUBLIC."""
        found = {role, EVERYBODY}
        new = {role}
        while new:
            new = {granted for holder in new for granted in self.roles.get(holder, ())} - found
            found |= new
        return found

    def may(self, role: str, privileges: Iterable[str], kind: str, name: str | None) -> bool:
        """Whether the role, or one that it inherits, holds one of the privileges on the object."""
        roles = self.inherited(role)
        wanted = set(privileges)
        return any(
            grant.privilege in wanted and grant.kind == kind and grant.name == name and grant.role in roles
            for grant in self.grants
        )
