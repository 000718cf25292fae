"""The clusters of Spark of a Narrative plane: where they answer, and the folder that is shared with them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from config.addresses import check_url
from config.section import Seconds, Section, Wrong, allowed, validated

CONNECT = "sc://host:port, or sc://host:port/;use_ssl=true"
REST = "http://host:6066"
CLUSTERS = ("connect_url", "master_url")
UIS = ("ui_url", "master_ui_url")
#: What a source takes out of those below it by giving a setting.
REPLACED_BY: Mapping[str, tuple[str, ...]] = {
    "connect_token": ("connect_token_file",),
    "connect_token_file": ("connect_token",),
    "master_token": ("master_token_file",),
    "master_token_file": ("master_token",),
}
OF_CONNECT = ("connect_token", "connect_token_file", "connect_ca_file", "ui_url")
OF_MASTER = ("master_token", "master_token_file", "master_ui_url", "properties")


def check_connect_url(url: str) -> str:
    """Accept where a Spark Connect server answers; what else its clients write into the address has settings here."""
    if not _is_address(url.removesuffix("/;use_ssl=true"), {"sc"}):
        raise allowed(f"{CONNECT}; a token and a user have settings of their own")
    return url


def check_master_url(url: str) -> str:
    """Accept where a standalone master takes submissions, which is not where its workers reach it."""
    if not _is_address(url, {"http", "https"}):
        hint = ": that of its REST API, not spark://" if url.startswith("spark://") else ""
        raise allowed(f"{REST}{hint}")
    return url.rstrip("/")


def _is_address(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
        whole = bool(parts.scheme in schemes and parts.hostname and parts.port)
    except ValueError:
        return False
    return whole and parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)


def check_warehouse(folder: Path) -> Path:
    """Accept a folder that means the same to Spark, wherever a process of ours was started."""
    if not folder.is_absolute():
        raise allowed("an absolute path: Spark, executors and workers reach the folder by it")
    return folder


def check_token_file(file: Path | None, info: ValidationInfo) -> Path | None:
    """Accept a file where no token is given beside it."""
    token = str(info.field_name).removesuffix("_file")
    if file is not None and info.data.get(token) is not None:
        raise allowed(f"absent beside {token}: one of the two is enough")
    return file


def flattened(told: object) -> object:
    """Properties by their whole names: their dots would otherwise be tables of TOML."""
    return dict(_flat(told)) if isinstance(told, Mapping) else told


def _flat(told: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


Secret = Annotated[SecretStr, Field(min_length=1)]
TokenFile = Annotated[Path | None, AfterValidator(check_token_file)]


class AdapterSettings(Section):
    """The adapter of a package that cancels on a cluster in the place of the built-in one, and what it is told."""

    name: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = Field(default_factory=dict)


class SparkSettings(Section):
    """The clusters of Spark that a Narrative plane's jobs run on."""

    connect_url: Annotated[str, AfterValidator(check_connect_url)] | None = None
    connect_user: Annotated[str, Field(min_length=1)] = "countermand"
    connect_token: Secret | None = None
    connect_token_file: TokenFile = None
    connect_ca_file: Path | None = None
    ui_url: Annotated[str, AfterValidator(check_url)] | None = None
    master_url: Annotated[str, AfterValidator(check_master_url)] | None = None
    master_token: Secret | None = None
    master_token_file: TokenFile = None
    master_ui_url: Annotated[str, AfterValidator(check_url)] | None = None
    properties: Annotated[dict[str, str], BeforeValidator(flattened)] = Field(default_factory=dict)
    warehouse: Annotated[Path, AfterValidator(check_warehouse)] | None = None
    adapters: dict[Literal["shared", "dedicated"], AdapterSettings] = Field(default_factory=dict)
    call_timeout_seconds: Seconds = 10.0

    @model_validator(mode="wrap")
    @classmethod
    def whoever_is_set_up_is_reached(cls, told: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse a section that says something of clusters, and of none where it is; or not where outputs lie."""
        section: Self = validated(told, handler, list(_missing(told)))
        return section


def _missing(told: object) -> Iterator[Wrong]:
    given: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    told_of = (*CLUSTERS, *OF_CONNECT, *OF_MASTER, "warehouse")
    names = [name for name in told_of if given.get(name) not in (None, {})]
    reached = [name for name in CLUSTERS if name in names]
    if names and not (reached or given.get("adapters")):
        error = allowed("given, or else master_url: nothing says where a cluster is", beside=names[0])
        yield Wrong(("connect_url",), error)
    if reached and "warehouse" not in names:
        error = allowed("given: the folder that Spark, executors and workers share", beside=reached[0])
        yield Wrong(("warehouse",), error)
    for url, ui in zip(CLUSTERS, UIS, strict=True):
        if url in names and ui not in names:
            reason = "given: the server's web UI; without it nothing proves that a run has ended"
            yield Wrong((ui,), allowed(reason, beside=url))
    for url, others in zip(CLUSTERS, (OF_CONNECT, OF_MASTER), strict=True):
        for name in others if reached and url not in names else ():
            if name in names:
                yield Wrong((name,), allowed(f"absent without {url}, to which it belongs"), given[name])
