"""What a deployment can set: given values win over the environment (``COUNTERMAND_*``), and that over a TOML file."""

import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from config.addresses import DatabaseUrl, Url
from config.complaints import FILE_VARIABLE, Complaints, misspelt_variables, setting_of
from config.errors import SettingsError
from config.executor import ExecutorSettings
from config.names import PREFIX, dotted, variable_of
from config.section import Section, TokenFile, Wrong, allowed, validated
from config.snowflake import SnowflakeSettings
from config.sources import CustomarySource, OneOfEach, ProfileSource, SettingsFile, VariableSource
from config.spark import SparkSettings
from config.tls import TlsSettings
from config.worker import WorkerSettings

__all__ = ["ExecutorSettings", "Settings", "SettingsError", "WorkerSettings", "load_settings", "variable_of"]

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


def check_profile(chosen: str | None, info: ValidationInfo) -> str | None:
    """Accept a profile that some source describes."""
    profiles = info.data.get("profiles")
    if chosen is None or profiles is None or chosen in profiles:
        return chosen
    known = (
        ", ".join(dotted([name]) for name in profiles)
        or "none: a [profiles.NAME] section of the settings file makes one"
    )
    raise PydanticCustomError("sentence", f"there is no profile {chosen!r}; there are {known}")


class Settings(BaseSettings):
    """Everything that can be set, with its default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    file: ClassVar[SettingsFile] = SettingsFile()

    database_url: DatabaseUrl = Field(default="sqlite:///countermand.db", validate_default=True)
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lower)] = "auto"
    profiles: dict[str, Profile] = Field(default_factory=dict)
    profile: Annotated[str | None, AfterValidator(check_profile)] = None
    url: Url = "http://127.0.0.1:8080"
    token: SecretStr | None = None
    token_file: TokenFile = None
    control_plane: Url | None = None
    tls: TlsSettings = Field(default_factory=TlsSettings)
    worker: Annotated[WorkerSettings, WrapValidator(check_reach)] = Field(default_factory=WorkerSettings)
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    snowflake: SnowflakeSettings = Field(default_factory=SnowflakeSettings)
    spark: SparkSettings = Field(default_factory=SparkSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        variables = VariableSource(settings_cls)
        file = InitSettingsSource(settings_cls, cls.file.document)
        profile = ProfileSource(settings_cls, (init_settings, variables, file), tuple(Profile.model_fields))
        named_here = "profile" in init_settings()  # a token of the environment is not meant for it
        above = (init_settings, profile, variables) if named_here else (init_settings, variables, profile)
        return *(OneOfEach(settings_cls, source) for source in above), file, CustomarySource(settings_cls)


def load_settings(path: Path | str | None = None, **overrides: Any) -> Settings:
    """Read the settings; *path* is the TOML file, by default the one that ``COUNTERMAND_CONFIG`` names, if any.

    *overrides* win; a section is given as a mapping, and ``None`` means not given. Raises `SettingsError`, which tells
    everything that is wrong.
    """
    misspelt = dict(misspelt_variables(Settings, os.environ))
    wrong = [f"Environment variable {name} is not a setting; did you mean {meant}?" for name, meant in misspelt.items()]
    try:
        settings = read_settings(SettingsFile.read(config_file(path)), without_none(overrides), misspelt)
    except SettingsError as error:
        raise SettingsError(*wrong, *error.sentences) from error.__cause__
    if wrong:
        raise SettingsError(*wrong)
    return settings


def read_settings(file: SettingsFile, given: Mapping[str, Any], misspelt: Container[str]) -> Settings:
    """What the file, the environment and the command's options say. Of *misspelt* variables nothing is said."""

    class FromFile(Settings):
        pass

    FromFile.file = file
    try:
        return FromFile(**given)
    except ValidationError as error:
        told = [one for one in error.errors() if variable_of(dotted(setting_of(one))) not in misspelt]
        raise SettingsError(*Complaints(Settings, given, file).of(told)) from None  # the cause would show secrets


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


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given, in sections too."""
    kept = {key: without_none(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value is not None}
