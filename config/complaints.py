"""What is said of wrong settings: each where it was set, by its name, with what is allowed."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from config.names import PREFIX, Place, dotted, field_names, filled, suggest, variable_of
from config.snowflake import CUSTOMARY
from config.sources import NotJson, SettingsFile

FILE_VARIABLE = "COUNTERMAND_CONFIG"
#: Never repeated in a message, wherever they stand: they are secrets, or may hold a password.
SECRET_FIELDS = {
    "connect_token",
    "connect_url",
    "control_plane",
    "database_url",
    "master_token",
    "master_ui_url",
    "master_url",
    "private_key_password",
    "snowflake",
    "spark",
    "token",
    "ui_url",
    "url",
}
#: What stands in the place of these may be the secret that belongs into them.
SECTION_ERRORS = {"model_type", "dict_type"}


class Complaints(NamedTuple):
    """What somebody gave, so that a complaint can name where; and the settings that there are."""

    model: type[BaseModel]
    given: Mapping[str, Any]  #: the command's options
    file: SettingsFile

    def of(self, errors: Sequence[ErrorDetails]) -> list[str]:
        """A sentence for each error, those of the file last, in its order."""
        told = [error for error in errors if not _of_the_chosen_profile(error, errors)]
        return [self._sentence(error) for error in sorted(told, key=self._order)]

    def _order(self, error: ErrorDetails) -> int:
        place = self._place(error)
        in_file = self._given_at(place, error["input"]) in {None, self.file.where(place)}
        return (self.file.places.line_of(place) or 0) if in_file else -1

    def _sentence(self, error: ErrorDetails) -> str:
        name = dotted(setting_of(error))
        place = self._place(error)
        where = self._given_at(place, error["input"]) or self.file.where(place)
        if error["type"] == "sentence":
            return f"{where}: {error['msg']}"
        if error["type"] == "extra_forbidden":
            return f"{where}: {name} is not a setting; {suggest(self.model, setting_of(error))}"
        return f"{where}: {name} {wish_of(error)}{found_in(error)}."

    def _place(self, error: ErrorDetails) -> Place:
        """The setting, or what asked for it where nobody gave it."""
        place = setting_of(error)
        beside = error.get("ctx", {}).get("beside")
        if beside and self._given_at(place, error["input"]) is None:
            return (*place[:-1], beside)
        return place

    def _given_at(self, place: Place, value: object) -> str | None:
        """The source of a value, in the order in which they win; the customary variables by the value."""
        if options := options_at(self.given, place):
            return f"Option {options}"
        if variable := variable_at(place, value):
            return f"Environment variable {variable}"
        return self.file.where(place) if self.file.places.has(place) else None


def setting_of(error: ErrorDetails) -> Place:
    """Where the error is; pydantic marks a wrong key by a word of its own."""
    return tuple(part for part in error["loc"] if part != "[key]")


def wish_of(error: ErrorDetails) -> str:
    """What the setting should be."""
    if isinstance(error["input"], NotJson):
        return "should be JSON"
    if error["type"] in SECTION_ERRORS:
        return "should be a section with settings of its own"
    return re.sub(r"^(Input|String|Value) (?=should )", "", error["msg"])


def found_in(error: ErrorDetails) -> str:
    """What it is instead, where that is no secret and can be told in a word."""
    secret = str(setting_of(error)[-1]) in SECRET_FIELDS
    tellable: tuple[type, ...] = (int, float) if error["type"] in SECTION_ERRORS else (str, int, float)
    return "" if secret or not isinstance(error["input"], tellable) else f", not {error['input']!r}"


def _of_the_chosen_profile(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Whether a profile's setting is wrong, which is told of the profile itself as well."""
    same = [other for other in errors if other["loc"][:1] == ("profiles",) and other["loc"][2:] == error["loc"]]
    return any((other["type"], other["input"]) == (error["type"], error["input"]) for other in same)


def options_at(given: Mapping[str, Any], place: Place) -> str:
    """The command's options that gave what stands there, all of them for a section; empty without any."""
    value: object = given
    for part in place:
        if not isinstance(value, Mapping) or part not in value:
            return ""
        value = value[part]
    names = value if isinstance(value, Mapping) else place[-1:]
    return ", ".join(f"--{name}".replace("_", "-") for name in names)


def variable_at(place: Place, value: object) -> str | None:
    """The environment variable that gave what stands there: its own, a section's, which is JSON, or a customary one."""
    parts = [str(part) for part in place]
    for depth in range(len(parts), 0, -1):
        told = os.environ.get(variable := variable_of(".".join(parts[:depth])))
        if told and (depth == len(parts) or holds(told, place[depth:])):
            return variable
    for variable in CUSTOMARY.get(parts[-1], ()) if parts[0] == "snowflake" and len(parts) == 2 else ():
        if os.environ.get(variable) == value:
            return variable
    return None


def holds(text: str, place: Place) -> bool:
    """Whether there is something at the place in a JSON document."""
    try:
        document = json.loads(text)
        for part in place:
            document = document[part]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True


def misspelt_variables(model: type[BaseModel], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each variable that is nearly one of ours, and the one that was probably meant.

    Others are left alone: Kubernetes, for one, gives every process ``COUNTERMAND_PORT`` and the like, once a service
    is called countermand.
    """
    for variable in environment:
        rest = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and not _of_a_service(rest, environment[variable]):
            names = filled(field_names(model), rest.lower().split("__"))
            known = [FILE_VARIABLE, *map(variable_of, names)]
            near = difflib.get_close_matches(rest, [name.removeprefix(PREFIX) for name in known], n=1, cutoff=0.8)
            if variable not in known and near:
                yield variable, PREFIX + near[0]


def _of_a_service(name: str, value: str) -> bool:
    """As Kubernetes tells every process of a service, here of one whose name begins with ours."""
    told = re.search(r"(^|_)(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_|$)", name)
    return bool(told) or value.startswith(("tcp://", "udp://", "sctp://"))
