"""Everything that is wrong with the settings is told at once, each with the line where it stands, and no secret is."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import SettingsError
from config.places import Places
from config.settings import load_settings

WriteFile = Callable[[str], Path]
EXAMPLE = (Path(__file__).parents[2] / "config" / "countermand.example.toml").read_text()


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "countermand.toml"
        path.write_text(text)
        return path

    return write


def told(path: Path | None, **overrides: object) -> list[str]:
    """What is said, line by line, the file's folder left out."""
    with pytest.raises(SettingsError) as refused:
        load_settings(path, **overrides)
    return [line.removeprefix(f"{path.parent}/") if path else line for line in str(refused.value).splitlines()]


# --- where a setting stands ---

TEXT = '''# a comment
[ignored] # x
"a \\"b.c" = 1
many = [ # one
  1,

  2,
]
long = """
[worker]
batch_size = 1
"""
inline = {x = 1, y = [{z = 2}]}

[worker . planes."north pole"]
snowflake.user = "ada"

[worker]
batch_size = 1

[[array]]
a = 1
[array.sub]
b = 1
[[array]]
[[array.inner]]
c = 1
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("ignored",), 2),
        (("ignored", 'a "b.c'), 3),
        (("ignored", "many", 1), 4),
        (("ignored", "long"), 9),
        (("ignored", "inline", "y", 0, "z"), 13),
        (("worker", "planes", "north pole"), 15),
        (("worker", "planes", "north pole", "snowflake", "user"), 16),
        (("worker", "planes", "north pole", "token_file"), 15),
        (("worker",), 18),
        (("worker", "batch_size"), 19),
        (("worker", "lease_seconds"), 18),
        (("array", 0, "sub", "b"), 24),
        (("array", 1), 25),
        (("array", 1, "inner", 0, "c"), 27),
        (("nothing", "like", "that"), None),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_setting_stands_where_its_statement_begins_and_a_missing_one_where_its_section_does(
    place: tuple[str | int, ...], line: int | None, newline: str
) -> None:
    places = Places(TEXT.replace("\n", newline))

    assert places.line_of(place) == line


def test_an_array_of_tables_in_one_within_another_begins_anew() -> None:
    places = Places("[[a]]\n[[a.b]]\nx = 1\n[[a.b]]\nx = 2\n[[a]]\n[[a.b]]\nx = 3\n")

    assert [places.line_of(("a", *at, "x")) for at in ((0, "b", 0), (0, "b", 1), (1, "b", 0))] == [3, 5, 8]


def leaves(value: object, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    match value:
        case dict():
            return [leaf for key, inner in value.items() for leaf in leaves(inner, (*above, key))]
        case list():
            return [leaf for key, inner in enumerate(value) for leaf in leaves(inner, (*above, key))]
    return [above]


@settings(max_examples=20)
@given(st.integers(0, len(EXAMPLE.splitlines())))
def test_every_setting_of_a_file_has_a_line_that_its_key_stands_on(blank: int) -> None:
    lines = EXAMPLE.splitlines()
    text = "\n".join([*lines[:blank], "", "# = [", *lines[blank:]])

    places = Places(text)

    for place in leaves(tomllib.loads(text)):
        line = places.line_of(place)
        assert line is not None
        assert text.splitlines()[line - 1].startswith(str(place[-1]))


# --- all at once ---


def test_everything_that_is_wrong_with_a_file_is_told_in_its_order_with_its_lines(write_file: WriteFile) -> None:
    path = write_file(
        """# what a bad day looks like
url = "ftp://ada:s3cret@host"
log_level = "loud"
colour = "red"

[worker]
batch_sise = 3
lease_seconds = 2
batches_in_flight = 99

[worker.planes.north]
max_in_flight = 0
[worker.planes.south]
token = "s3cret"
[worker.planes.west]
token = "s3cret"
snowflake = { token = "s3cret", private_key_file = "k", port = 0 }

[executor]
listen = "0.0.0.0:1"

[policy.overrides]
platform_aws = [
  "materialize-view",
  "forecas",
]
"""
    )

    lines = told(path)

    assert [line.split(" ")[:2] for line in lines] == [
        ["countermand.toml:2:", "url"],
        ["countermand.toml:3:", "log_level"],
        ["countermand.toml:4:", "colour"],
        ["countermand.toml:7:", "worker.batch_sise"],
        ["countermand.toml:8:", "worker.call_timeout_seconds"],
        ["countermand.toml:9:", "worker.batches_in_flight"],
        ["countermand.toml:11:", "worker.planes"],
        ["countermand.toml:11:", "worker.planes.north.token_file"],
        ["countermand.toml:12:", "worker.planes.north.max_in_flight"],
        ["countermand.toml:16:", "worker.planes.west.token"],
        ["countermand.toml:17:", "worker.planes.west.snowflake"],
        ["countermand.toml:17:", "worker.planes.west.snowflake.port"],
        ["countermand.toml:20:", "executor.listen_token_file"],
        ["countermand.toml:23:", "policy.overrides.platform_aws.1"],
    ]
    assert [line for line in lines if "s3cret" in line] == []


def test_every_source_is_named_and_options_and_variables_come_before_the_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file("[worker]\nbatch_size = 0")
    monkeypatch.setenv("COUNTERMAND_WORKER__POLL_SECONDS", "0")
    monkeypatch.setenv("COUNTERMAND_EXECUTOR", "{")
    monkeypatch.setenv("COUNTERMAND_DATABSE_URL", "x")
    monkeypatch.setenv("COUNTERMAND_TOKENN", "x")

    lines = told(path, log_level="loud", executor=None)

    assert [line.partition(" should")[0].partition(" is not")[0] for line in lines] == [
        "Environment variable COUNTERMAND_DATABSE_URL",
        "Environment variable COUNTERMAND_TOKENN",
        "Option --log-level: log_level",
        "Environment variable COUNTERMAND_WORKER__POLL_SECONDS: worker.poll_seconds",
        "Environment variable COUNTERMAND_EXECUTOR: executor",
        "countermand.toml:2: worker.batch_size",
    ]


def test_a_section_given_as_json_is_blamed_for_what_it_holds_alone(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file("[worker]\nbatch_size = 0\npoll_seconds = 0")
    monkeypatch.setenv("COUNTERMAND_WORKER", '{"batch_size": 0}')

    assert [line.split(":")[0] for line in told(path)] == ["Environment variable COUNTERMAND_WORKER", path.name]


def test_what_asks_for_a_setting_that_nobody_gave_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_WORKER__LEASE_SECONDS", "2")

    [line] = told(None)

    assert line.startswith("Environment variable COUNTERMAND_WORKER__LEASE_SECONDS: worker.call_timeout_seconds should")


def test_a_misspelt_variable_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__NORTH__TOKEN", "s")
    monkeypatch.setenv("COUNTERMAND_WORKER__PLANES__NORTH__MAX_IN_FLIHGT", "1")
    monkeypatch.setenv("COUNTERMAND_CONTROL_PLANE", "https://control.example")

    [line] = told(None)

    assert line.endswith("did you mean COUNTERMAND_WORKER__PLANES__NORTH__MAX_IN_FLIGHT?")


def test_what_is_wrong_in_the_chosen_profile_is_told_once(write_file: WriteFile) -> None:
    [line] = told(write_file('profile = "p"\n[profiles.p]\nurl = "x"'))

    assert line.startswith("countermand.toml:3: profiles.p.url should")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = 1\nb = \n", ":2: this is not TOML: Invalid value, at column 5."),
        ("a = 1\nb = [1,\n", ":2: this is not TOML: Invalid "),
        ("x = 1\n[worker]\n[worker]\n", ":3: this is not TOML: "),
        ("log_level = " + "[" * 100_000, ": this is not TOML: maximum recursion depth"),
        ("log_level = 1" + "0" * 5000, ": this is not TOML: Exceeds the limit"),
    ],
)
def test_a_file_that_is_not_toml_is_told_of_with_the_line_and_so_is_a_misspelt_variable(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.setenv("COUNTERMAND_DATABSE_URL", "x")

    first, second = told(write_file(text))

    assert first.startswith("Environment variable COUNTERMAND_DATABSE_URL is not a setting")
    assert second.startswith(f"countermand.toml{sentence}")


@pytest.mark.parametrize(
    "text",
    [
        'profiles = "s3cret"',
        'profiles = ["s3cret"]',
        'profiles.p = "s3cret"',
        'worker = ["s3cret"]',
        'worker.planes = "s3cret"',
        'worker.planes.north = "s3cret"',
        'worker.planes.north = ["s3cret"]',
        'worker.planes.north.token = ["s3cret"]',
        'snowflake = "s3cret"',
        'snowflake.worker = "s3cret"',
        'token = {value = "s3cret"}',
        'tls = "s3cret"',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(write_file: WriteFile, text: str) -> None:
    path = write_file(f'control_plane = "https://control.example"\n{text}')

    assert [line for line in told(path) if "s3cret" in line] == []


@pytest.mark.parametrize("value", ["s3cret", '["s3cret"]', '"s3cret"', '{"north": "s3cret"}', "[" * 100_000 + "s3cret"])
@pytest.mark.parametrize("variable", ["PROFILES", "WORKER", "WORKER__PLANES", "WORKER__PLANES__NORTH", "SNOWFLAKE"])
def test_a_secret_in_the_wrong_variable_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"COUNTERMAND_{variable}", value)

    assert [line for line in told(None) if "s3cret" in line] == []


def test_each_error_is_one_line_whatever_it_is_called(write_file: WriteFile) -> None:
    path = write_file('"a\\nb" = 1\n[worker.planes."c\\nd"]\ntoken = "x"\nmax_in_flight = "e\\nf"\n"g h" = 1')

    assert [line.split(":")[0] for line in told(path)] == ["countermand.toml"] * 4
