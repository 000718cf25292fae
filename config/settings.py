"""What a deployment can set: given values win over the environment (``COUNTERMAND_*``), and that over a TOML file."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as UnreadableSource

from config.addresses import DatabaseUrl, Url
from config.executor import ExecutorSettings
from config.section import Section, TokenFile, Wrong, allowed, validated
from config.snowflake import CUSTOMARY, REPLACED_BY, SIDES, SnowflakeSettings, customary, replacing
from config.tls import TlsSettings
from config.worker import WorkerSettings

PREFIX = "COUNTERMAND_"
FILE_VARIABLE = "COUNTERMAND_CONFIG"
#: Never repeated in a message, wherever they stand: they are secrets, or may hold a password.
SECRET_FIELDS = {"control_plane", "database_url", "private_key_password", "snowflake", "token", "url"}
#: The control plane's names, which the configuration does not import; a test holds the two together.
PLATFORMS = ("platform_aws", "platform_snowflake")
JOB_TYPES = (
    "costs",
    "datasets_calculate_column_stats",
    "datasets_delete_table",
    "datasets_deliver_data",
    "datasets_sample",
    "datasets_suggest_mappings",
    "delete-snowflake-table",
    "external",
    "forecast",
    "materialize-view",
    "model_training_run",
    "models_deliver_model",
    "nql-forecast",
    "upload-stats",
)


class SettingsError(Exception):
    """A setting cannot be used; the text names it, where it was set, and what is allowed."""


def check_platform(name: str) -> str:
    """Accept the control plane's name of a platform."""
    return check_name(name, PLATFORMS)


def check_job_type(name: str) -> str:
    """Accept the control plane's name of a job type."""
    return check_name(name, JOB_TYPES)


def check_name(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise allowed(f"one of {', '.join(names)}")
    return name


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


PlatformName = Annotated[str, AfterValidator(check_platform)]
JobTypeName = Annotated[str, AfterValidator(check_job_type)]


class PolicySettings(Section):
    """Which job types can be cancelled; a platform named here replaces the built-in list for it."""

    overrides: dict[PlatformName, list[JobTypeName]] = Field(default_factory=dict)


class ServerSettings(Section):
    """The HTTP API, ``countermand serve``."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080


class Profile(Section):
    """A control plane that the commands speak to, by a name: ``countermand --profile NAME``."""

    url: Url | None = None
    token: SecretStr | None = None
    token_file: TokenFile = None


def check_reach(worker: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Accept planes where something says at which control plane they are."""
    planes = worker.get("planes") if isinstance(worker, Mapping) else None
    nowhere = bool(planes) and info.data.get("control_plane", "wrong") is None
    return validated(worker, handler, [Wrong(("planes",), allowed(NEEDS_CONTROL_PLANE))] if nowhere else [])


NEEDS_CONTROL_PLANE = (
    'absent without control_plane: set control_plane = "https://…" above all sections of the file, or '
    f"{PREFIX}CONTROL_PLANE"
)


class Settings(BaseSettings):
    """Everything that can be set, with its default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    database_url: DatabaseUrl = Field(default="sqlite:///countermand.db", validate_default=True)
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lower)] = "auto"
    profiles: dict[str, Profile] = Field(default_factory=dict)
    profile: str | None = None
    url: Url = "http://127.0.0.1:8080"
    token: SecretStr | None = None
    token_file: TokenFile = None
    control_plane: Url | None = None
    tls: TlsSettings = Field(default_factory=TlsSettings)
    worker: Annotated[WorkerSettings, WrapValidator(check_reach)] = Field(default_factory=WorkerSettings)
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    snowflake: SnowflakeSettings = Field(default_factory=SnowflakeSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls)
        profile = ProfileSource(settings_cls, (init_settings, env_settings, file))
        named_here = "profile" in init_settings()  # a token of the environment is not meant for it
        above = (init_settings, profile, env_settings) if named_here else (init_settings, env_settings, profile)
        return *(OneOfEach(settings_cls, source) for source in above), file, CustomarySource(settings_cls)


class ProfileSource(PydanticBaseSettingsSource):
    """What the chosen profile says, whichever source chose it."""

    def __init__(self, settings_cls: type[BaseSettings], sources: Sequence[PydanticBaseSettingsSource]) -> None:
        super().__init__(settings_cls)
        self._sources = sources

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        told = [source() for source in self._sources]
        chosen = next((document["profile"] for document in told if document.get("profile")), None)
        profiles = [known for document in told if isinstance(known := document.get("profiles"), dict)]
        found = [known[chosen] for known in profiles if isinstance(chosen, str) and isinstance(known.get(chosen), dict)]
        profile = {name: found[0][name] for name in Profile.model_fields if name in found[0]} if found else {}
        no_others = dict.fromkeys(("token", "token_file")) if "url" in profile else {}
        return no_others | profile


class OneOfEach(PydanticBaseSettingsSource):
    """A source whose token, or way to sign in, replaces those of the sources below it, however either gives it."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

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
    return told


def replacing_below(account: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a Snowflake account, which a side's own sections lie in, with what it replaces elsewhere."""
    sides = {side: own for side in SIDES if isinstance(own := account.get(side), Mapping)}
    replaced = {side: replacing(own, REPLACED_BY) for side, own in sides.items()}
    return replacing(account, REPLACED_BY) | replaced


class CustomarySource(PydanticBaseSettingsSource):
    """The variables of Snowflake's own tools, below everything that was written for us."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        above = self.current_state.get("snowflake", {})
        told = customary(os.environ, above) if isinstance(above, Mapping) else {}
        return {"snowflake": told} if told else {}


def load_settings(path: Path | str | None = None, **overrides: Any) -> Settings:
    """Read the settings; *path* is the TOML file, by default the one that ``COUNTERMAND_CONFIG`` names, if any.

    *overrides* win; a section is given as a mapping, and ``None`` means not given. Raises `SettingsError`.
    """
    file = config_file(path)
    given = without_none(overrides)
    refuse_misspelt_variables(os.environ)
    try:
        settings = settings_class(file)(**given)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not TOML: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from error
    except UnreadableSource as error:
        raise SettingsError(f"{error}: allowed is JSON.") from None
    except ValidationError as error:
        raise SettingsError(describe(error.errors()[0], given, file)) from None  # the cause would show secrets
    refuse_unknown_profile(settings, given, file)
    return settings


def refuse_unknown_profile(settings: Settings, given: Mapping[str, Any], file: Path | None) -> None:
    """Refuse a profile that no source describes, and name those that there are."""
    if settings.profile is None or settings.profile in settings.profiles:
        return
    where = origin(("profile",), given, file)
    known = ", ".join(settings.profiles) or "none: a [profiles.NAME] section of the settings file makes one"
    raise SettingsError(f"{where}: there is no profile {settings.profile!r}; there are {known}")


def config_file(path: Path | str | None) -> Path | None:
    """The file to read: the one that was named, which has to be there, else the user's own, if there is one."""
    named = path or os.environ.get(FILE_VARIABLE)
    if not named:
        return users_file()
    by = "" if path else f" (named by {FILE_VARIABLE})"
    if not Path(named).exists():
        raise SettingsError(f"{named}{by} is not there: the settings file has to exist.")
    if not Path(named).is_file():
        raise SettingsError(f"{named}{by} is a folder or the like: a TOML file is needed.")
    return Path(named)


def users_file() -> Path | None:
    """``config.toml`` where the XDG Base Directory Specification has it; None where it is not, or cannot be seen."""
    try:
        told = Path(os.environ.get("XDG_CONFIG_HOME", ""))
        folder = told if told.is_absolute() else Path.home() / ".config"  # a relative one is to be ignored
        file = folder / "countermand" / "config.toml"
        return file if file.is_file() else None
    except (OSError, RuntimeError):  # a service's home may be hidden from it, or not exist
        return None


def settings_class(file: Path | None) -> type[Settings]:
    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FromFile


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given, in sections too."""
    kept = {key: without_none(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value is not None}


def field_names(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every setting's dotted name, the sections' own included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, f"{prefix}{name}.")


def variable_of(name: str) -> str:
    return PREFIX + name.replace(".", "__").upper()


def refuse_misspelt_variables(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly one of ours.

    Others are left alone: Kubernetes, for one, gives every process ``COUNTERMAND_PORT`` and the like, once a service
    is called countermand.
    """
    known = [FILE_VARIABLE.removeprefix(PREFIX), *(variable_of(name).removeprefix(PREFIX) for name in field_names())]
    for variable in environment:
        rest = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and rest not in known and not _of_a_service(rest, environment[variable]):
            for meant in difflib.get_close_matches(rest, known, n=1, cutoff=0.8):
                raise SettingsError(f"Environment variable {variable} is not a setting; did you mean {PREFIX}{meant}?")


def _of_a_service(name: str, value: str) -> bool:
    """As Kubernetes tells every process of a service, here of one whose name begins with ours."""
    told = re.search(r"(^|_)(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_|$)", name)
    return bool(told) or value.startswith(("tcp://", "udp://", "sctp://"))


def describe(error: ErrorDetails, given: Mapping[str, Any], file: Path | None) -> str:
    """One sentence: where, which setting, what is allowed, what was found."""
    name = ".".join(str(part) for part in error["loc"] if part != "[key]")  # pydantic's word: the key itself is wrong
    place = error["loc"]
    if error["input"] is None and "beside" in error.get("ctx", {}):  # what asks for it was given, and it was not
        place = (*place[:-1], error["ctx"]["beside"])
    where = origin(place, given, file, error["input"])
    if error["type"] == "extra_forbidden":
        return f"{where}: {name} is not a setting; {suggest(name)}"
    wish = re.sub(r"^(Input|String|Value) (?=should )", "", error["msg"])
    if error["type"] == "model_type":
        wish = "should be a section with settings of its own"
    found = "" if is_secret_or_section(name, error["input"]) else f", not {error['input']!r}"
    return f"{where}: {name} {wish}{found}."


def is_secret_or_section(name: str, value: object) -> bool:
    return name.rpartition(".")[2] in SECRET_FIELDS or isinstance(value, (Mapping, BaseModel, NoneType))


def origin(location: tuple[int | str, ...], given: Mapping[str, Any], file: Path | None, value: object = None) -> str:
    """Name the source that a value came from, in the order in which they win; the customary variables by the value."""
    if options := options_at(given, location):
        return f"Option {options}"
    parts = [str(part) for part in location]
    for depth in range(len(parts), 0, -1):  # a section's own variable may hold it as JSON
        if os.environ.get(variable := variable_of(".".join(parts[:depth]))):
            return f"Environment variable {variable}"
    for variable in CUSTOMARY.get(parts[-1], ()) if parts[0] == "snowflake" and len(parts) == 2 else ():
        if os.environ.get(variable) == value:
            return f"Environment variable {variable}"
    return str(file) if file else "Settings"


def options_at(given: Mapping[str, Any], location: tuple[int | str, ...]) -> str:
    """The command's options that gave what stands at *location*, all of them for a section; empty without any."""
    value: object = given
    for part in location:
        if not isinstance(value, Mapping) or part not in value:
            return ""
        value = value[part]
    names = value if isinstance(value, Mapping) else location[-1:]
    return ", ".join(f"--{name}".replace("_", "-") for name in names)


def suggest(name: str) -> str:
    """The setting that was probably meant, or else those that are there."""
    section = name.rpartition(".")[0]
    siblings = [known for known in field_names() if known.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, list(field_names()), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"allowed are {', '.join(siblings)}."
