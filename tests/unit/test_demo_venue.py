"""Where the demo's Snowflake plane is: what decides it, what is said of it, and what its processes are told."""

import os
import sys
from pathlib import Path

import pytest

from config.settings import load_settings
from control_plane.errors import BadInput
from workers.cli.demo import as_variables, venue_of
from workers.demo.parts import parts
from workers.demo.snowflake import snowflake_parts
from workers.demo.venue import EXTRAS, NEEDED, PAGE, VenueKind, choose_venue, has_connector, has_double

ROOT = Path(__file__).parents[2]
ACCOUNT = {"SNOWFLAKE_ACCOUNT": "MYORG-MINE", "SNOWFLAKE_WAREHOUSE": "WH", "SNOWFLAKE_DATABASE": "DB"}
SIGN_IN = {"SNOWFLAKE_USER": "ADA", "SNOWFLAKE_TOKEN": "s3cret"}
INHERITED = """
[snowflake]
account = "MYORG-MINE"
private_key_file = "mine.p8"
private_key_password = "s3cret"
user = "ADA"
statement_timeout_seconds = 900
[snowflake.worker]
user = "EVE"
token = "s3same"
token_kind = "oauth"
[snowflake.executor]
role = "RUNS"
"""


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# --- which it is ---


def test_a_configured_account_is_used_though_there_is_a_double(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, ACCOUNT | SIGN_IN)

    venue = venue_of(load_settings(None))

    assert (venue.kind, venue.told) == (VenueKind.ACCOUNT, "The Snowflake plane is the account MYORG-MINE.")


def test_an_account_that_is_not_wholly_configured_is_refused_by_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(monkeypatch, ACCOUNT)

    with pytest.raises(BadInput, match=r"^snowflake\.user: nobody is named to sign in .* or SNOWFLAKE_USER$"):
        venue_of(load_settings(None))


def test_without_an_account_a_checkout_has_a_double_and_says_so() -> None:
    venue = venue_of(load_settings(None))

    assert venue.kind is VenueKind.DOUBLE
    assert venue.told.startswith("No Snowflake account is configured: ")
    assert venue.variables == {}


def test_without_an_account_and_a_double_it_says_how_to_add_one() -> None:
    venue = choose_venue(None, {}, has_connector=True, has_double=False)

    assert venue.kind is None
    assert NEEDED in venue.told
    assert PAGE in venue.told
    assert EXTRAS not in venue.told


@pytest.mark.parametrize("has_double", [True, False])
def test_without_the_connector_it_says_what_to_install_and_to_set(has_double: bool) -> None:
    venue = choose_venue(None, {}, has_connector=False, has_double=has_double)

    assert venue.kind is None
    assert f"install countermand[{EXTRAS}]" in venue.told
    assert NEEDED in venue.told


def test_without_the_connector_a_configured_account_is_named_and_nothing_is_to_be_set() -> None:
    venue = choose_venue("MYORG-MINE", {}, has_connector=False, has_double=True)

    assert venue.kind is None
    assert f"install countermand[{EXTRAS}]" in venue.told
    assert venue.told.endswith("it will be in MYORG-MINE.")


def test_the_page_that_is_named_is_there() -> None:
    assert (ROOT / PAGE).is_file()


# --- what there is ---


def test_a_checkout_has_a_double() -> None:
    assert has_double()


def test_somebody_elses_tests_are_no_double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.delitem(sys.modules, "tests")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    assert not has_double()


def test_the_connector_is_looked_for_without_a_word_where_nothing_of_snowflake_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == "snowflake"]:
        monkeypatch.delitem(sys.modules, name)

    assert not has_connector()


# --- what happens there ---


def test_a_double_is_asked_to_lie_and_an_account_is_not() -> None:
    names = {kind: [part.name for part in snowflake_parts(kind)] for kind in (None, *VenueKind)}

    assert names == {
        None: [],
        VenueKind.ACCOUNT: ["snowflake_running"],
        VenueKind.DOUBLE: ["snowflake_running", "snowflake_lies"],
    }


def test_every_job_has_a_name_of_its_own() -> None:
    names = [part.name for part in (*parts(), *snowflake_parts(VenueKind.DOUBLE))]

    assert len(set(names)) == len(names) == 9


# --- what its processes are told ---


def test_an_accounts_settings_are_the_same_when_its_processes_read_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "countermand.toml"
    file.write_text(INHERITED)
    monkeypatch.chdir(tmp_path)
    own = load_settings(file).snowflake

    set_all(monkeypatch, dict(as_variables(own)))
    monkeypatch.chdir("/")
    theirs = load_settings(None).snowflake

    assert theirs == own.model_copy(update={"private_key_file": tmp_path / "mine.p8"})


def test_of_the_customary_variables_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, ACCOUNT | SIGN_IN | {"SNOWFLAKE_AUTHENTICATOR": "oauth", "SNOWFLAKE_ROLE": "R"})
    own = load_settings(None).snowflake

    told = dict(as_variables(own))
    for name in [name for name in os.environ if name.startswith("SNOWFLAKE_")]:
        monkeypatch.delenv(name)
    set_all(monkeypatch, told)

    assert load_settings(None).snowflake == own
    assert told["COUNTERMAND_SNOWFLAKE__TOKEN"] == "s3cret"
