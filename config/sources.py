"""Where settings come from: what each source tells, and what it takes out of those below it."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from config import spark
from config.errors import SettingsError
from config.places import Places
from config.snowflake import REPLACED_BY, SIDES, customary, replacing


@dataclass(frozen=True)
class SettingsFile:
    """A TOML file as it was once read; without a path there is none, and it says nothing."""

    path: Path | None = None
    text: str = ""
    document: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """Raises SettingsError."""
        if path is None:
            return cls()
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} cannot be read: {error}.") from error
        try:
            return cls(path, text, tomllib.loads(text))
        except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
            raise SettingsError(not_toml(path, text, str(error))) from error

    @cached_property
    def places(self) -> Places:
        """Where its settings stand."""
        return Places(self.text)

    def where(self, place: Sequence[str | int]) -> str:
        """The file, and the line of the setting, or of the section that lacks it."""
        line = self.places.line_of(place)
        return f"{self.path}:{line}" if line else str(self.path or "Settings")


def not_toml(path: Path, text: str, why: str) -> str:
    """One sentence, with the line where the file stops being TOML."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", why)
    if not found:
        return f"{path}: this is not TOML: {why}."
    line = found[1] or len(text.rstrip("\n").split("\n"))
    column = f", at column {found[2]}" if found[2] else ""
    return f"{path}:{line}: this is not TOML: {why[: found.start()]}{column}."


class NotJson:
    """Stands for what a variable holds where only JSON would do."""


class VariableSource(EnvSettingsSource):
    """The environment; what it cannot read is wrong like any other value, and hides no other error."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """The value of a section or a list."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return NotJson()


class GivenSource(PydanticBaseSettingsSource):
    """A source that is asked once, for all."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False


class ProfileSource(GivenSource):
    """What the chosen profile says, whichever source chose it."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        sources: Sequence[PydanticBaseSettingsSource],
        names: Sequence[str],
    ) -> None:
        super().__init__(settings_cls)
        self._sources = sources
        self._names = names

    def __call__(self) -> dict[str, Any]:
        told = [source() for source in self._sources]
        chosen = next((document["profile"] for document in told if document.get("profile")), None)
        profiles = [known for document in told if isinstance(known := document.get("profiles"), dict)]
        found = [known[chosen] for known in profiles if isinstance(chosen, str) and isinstance(known.get(chosen), dict)]
        profile = {name: found[0][name] for name in self._names if name in found[0]} if found else {}
        no_others = dict.fromkeys(("token", "token_file")) if "url" in profile else {}
        return no_others | profile


class OneOfEach(GivenSource):
    """A source whose token, or way to sign in, replaces those of the sources below it, however either gives it."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def __call__(self) -> dict[str, Any]:
        told: dict[str, Any] = one_of_each(self._source())
        worker = told.get("worker")
        if isinstance(worker, Mapping) and isinstance(planes := worker.get("planes"), Mapping):
            told["worker"] = {**worker, "planes": {name: one_of_each(plane) for name, plane in planes.items()}}
        return told


def one_of_each(told: Any) -> Any:
    """What is told of a control plane or a plane, its token and the sign-ins of its account replacing those below."""
    if not isinstance(told, Mapping):
        return told
    told = replacing(told, {"token": ("token_file",), "token_file": ("token",)})
    if isinstance(account := told.get("snowflake"), Mapping):
        told["snowflake"] = replacing_below(account)
    if isinstance(clusters := told.get("spark"), Mapping):
        told["spark"] = replacing(clusters, spark.REPLACED_BY)
    return told


def replacing_below(account: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a Snowflake account, which a side's own sections lie in, with what it replaces elsewhere."""
    sides = {side: own for side in SIDES if isinstance(own := account.get(side), Mapping)}
    replaced = {side: replacing(own, REPLACED_BY) for side, own in sides.items()}
    return replacing(account, REPLACED_BY) | replaced


class CustomarySource(GivenSource):
    """The variables of Snowflake's own tools, below everything that was written for us."""

    def __call__(self) -> dict[str, Any]:
        above = self.current_state.get("snowflake", {})
        told = customary(os.environ, above) if isinstance(above, Mapping) else {}
        return {"snowflake": told} if told else {}
