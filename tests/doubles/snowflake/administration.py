"""The SQL that administers the account, as far as it decides who may stop and see what."""

import re
import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.doubles.snowflake.account import Account, User, meant
from tests.doubles.snowflake.errors import insufficient_privileges, malformed
from tests.doubles.snowflake.login import read_public_key
from tests.doubles.snowflake.queries import Column, Table
from tests.doubles.snowflake.sessions import Session
from tests.doubles.snowflake.stopping import Stopper
from tests.doubles.snowflake.warehouses import Warehouse

ADMINISTRATORS = frozenset({"ACCOUNTADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN"})
PROPERTY = re.compile(r"(\w+)\s*=\s*('(?:[^']|'')*'|[^\s,]+)")
ONE = r'("[^"]+"|[\w$]+)'  #: an object's name
Rule = tuple[str, Callable[..., str | None]]


def done(sentence: str = "Statement executed successfully.") -> Table:
    """What every such statement answers."""
    return Table([Column("status", "text")], [(sentence,)])


def properties(text: str) -> dict[str, str]:
    """``NAME = value`` pairs; names in capitals, values without their quotes."""
    pairs = PROPERTY.findall(text)
    return {name.upper(): value[1:-1].replace("''", "'") if value[0] == "'" else value for name, value in pairs}


class Administration:
    """Performs it for sessions whose roles may."""

    def __init__(self, account: Account, stopper: Stopper) -> None:
        self._account = account
        self._stopper = stopper
        rules: list[Rule] = [
            (rf"GRANT ROLE {ONE} TO (ROLE|USER) {ONE}", self._grant_role),
            (rf"REVOKE ROLE {ONE} FROM (ROLE|USER) {ONE}", self._revoke_role),
            (rf"GRANT ([\w ,]+) ON (\w+) ?(.*?) TO (?:ROLE )?{ONE}(?: WITH GRANT OPTION)?", self._grant),
            (rf"REVOKE ([\w ,]+) ON (\w+) ?(.*?) FROM (?:ROLE )?{ONE}", self._revoke),
            (rf"CREATE (?:OR REPLACE )?ROLE (?:IF NOT EXISTS )?{ONE}.*", self._create_role),
            (rf"CREATE (?:OR REPLACE )?USER (?:IF NOT EXISTS )?{ONE}(.*)", self._create_user),
            (rf"ALTER USER {ONE} SET (.*)", self._change_user),
            (rf"ALTER USER {ONE} ADD (?:PROGRAMMATIC ACCESS TOKEN|PAT) .*", self._add_token),
            (rf"CREATE (?:OR REPLACE )?WAREHOUSE (?:IF NOT EXISTS )?{ONE}(.*)", self._create_warehouse),
        ]
        self._rules = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), perform) for pattern, perform in rules]
        self._warehouse_rule = re.compile(rf"ALTER WAREHOUSE {ONE} (.*)", re.IGNORECASE | re.DOTALL)

    def perform(self, session: Session, sql: str) -> Table | None:
        """The answer, or None for a statement that is something else. Raises SnowflakeError without the privilege."""
        text = " ".join(sql.split()).rstrip("; ")
        if found := self._warehouse_rule.fullmatch(text):
            return self._alter_warehouse(session, meant(found[1]), found[2])
        for pattern, perform in self._rules:
            if found := pattern.fullmatch(text):
                self._demand_administrator(session)
                return done(perform(*found.groups()) or done().rows[0][0])
        return None

    def _demand_administrator(self, session: Session) -> None:
        if not self._account.inherited(session.role) & ADMINISTRATORS:
            raise insufficient_privileges("account")

    def _grant(self, privileges: str, kind: str, name: str, role: str) -> None:
        for privilege in _each(privileges):
            self._account.grant(privilege, kind.upper(), meant(name), meant(role))

    def _revoke(self, privileges: str, kind: str, name: str, role: str) -> None:
        for privilege in _each(privileges):
            self._account.revoke(privilege, kind.upper(), meant(name), meant(role))

    def _grant_role(self, role: str, kind: str, name: str) -> None:
        self._holders(kind, name).add(meant(role))

    def _revoke_role(self, role: str, kind: str, name: str) -> None:
        self._holders(kind, name).discard(meant(role))

    def _holders(self, kind: str, name: str) -> set[str]:
        if kind.upper() == "USER":
            return self._account.user(meant(name)).roles
        return self._account.roles.setdefault(meant(name), set())

    def _create_role(self, name: str) -> None:
        self._account.roles.setdefault(meant(name), set())

    def _create_user(self, name: str, given: str) -> None:
        if meant(name) not in self._account.users:
            self._account.add_user(User(meant(name)))
        self._change_user(name, given)

    def _change_user(self, name: str, given: str) -> None:
        user = self._account.user(meant(name))
        for prop, value in properties(given).items():
            match prop:
                case "PASSWORD":
                    user.password = value
                case "DEFAULT_ROLE":
                    user.default_role = value.upper()
                case "DISABLED":
                    user.disabled = value.upper() == "TRUE"
                case "RSA_PUBLIC_KEY":
                    user.public_key = _key(value)

    def _add_token(self, name: str) -> str:
        token = secrets.token_urlsafe(32)
        self._account.user(meant(name)).tokens.add(token)
        return token

    def _create_warehouse(self, name: str, given: str) -> None:
        warehouse = Warehouse(meant(name), capacity=8)  # Snowflake's own default
        self._account.warehouses[warehouse.name] = warehouse
        self._account.grant("OWNERSHIP", "WAREHOUSE", warehouse.name, "SYSADMIN")
        _configure(warehouse, given)

    def _alter_warehouse(self, session: Session, name: str, what: str) -> Table:
        warehouse = self._account.warehouse(name)
        if what.upper() == "ABORT ALL QUERIES":
            self._stopper.abort_all_queries(session, name)
            return done()
        if not self._account.may(session.role, ("OPERATE", "OWNERSHIP"), "WAREHOUSE", name):
            raise insufficient_privileges(f"warehouse '{name}'")
        match what.upper():
            case "SUSPEND":
                warehouse.suspend()
            case "RESUME":
                warehouse.resume()
            case _:
                _configure(warehouse, what)
        return done()


def _each(privileges: str) -> list[str]:
    """ALL is every privilege on a warehouse but OWNERSHIP; other objects' privileges decide nothing here."""
    named = [privilege.strip() for privilege in privileges.upper().split(",")]
    return ["USAGE", "OPERATE", "MONITOR", "MODIFY"] if named[0] in ("ALL", "ALL PRIVILEGES") else named


def _configure(warehouse: Warehouse, given: str) -> None:
    wanted = properties(given)
    if "MAX_CONCURRENCY_LEVEL" in wanted:
        warehouse.resize(int(wanted["MAX_CONCURRENCY_LEVEL"]))
    if "AUTO_RESUME" in wanted:
        warehouse.auto_resume = wanted["AUTO_RESUME"].upper() == "TRUE"


def _key(text: str) -> RSAPublicKey:
    try:
        return read_public_key(text)
    except ValueError as error:
        raise malformed(f"New public key rejected by current policy. Reason: '{error}'") from error
