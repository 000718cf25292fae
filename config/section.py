"""What sections of the settings are made of."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def allowed(expectation: str, **context: Any) -> PydanticCustomError:
    """What a validator raises: the setting "should be" as the expectation says."""
    return PydanticCustomError("allowed", "{expectation}", {"expectation": f"should be {expectation}", **context})


def check_token_file(file: Path | None, info: ValidationInfo) -> Path | None:
    """Accept a file where its own source gives no token as well."""
    if file is not None and info.data.get("token") is not None:
        raise allowed("absent beside a token: one of the two is enough")
    return file


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DrainSeconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TokenFile = Annotated[Path | None, AfterValidator(check_token_file)]


class Wrong(NamedTuple):
    """An error that a look at several settings finds: where, below the value that is validated, and which."""

    location: tuple[str, ...]
    error: PydanticCustomError
    value: object = None


def validated(value: object, handler: Callable[[Any], Any], wrong: Collection[Wrong]) -> Any:
    """What the handler makes of the value. Raises its errors and what else is wrong, all at once."""
    try:
        result = handler(value)
    except ValidationError as error:
        told = [_again(known) for known in error.errors()]
        raise ValidationError.from_exception_data("wrong", [_first(one) for one in wrong] + told) from None
    refuse(wrong)
    return result


def refuse(wrong: Iterable[Wrong]) -> None:
    """Raise what is wrong, where anything is."""
    if found := [_first(one) for one in wrong]:
        raise ValidationError.from_exception_data("wrong", found)


def _first(wrong: Wrong) -> InitErrorDetails:
    return InitErrorDetails(type=wrong.error, loc=wrong.location, input=wrong.value)


def _again(known: ErrorDetails) -> InitErrorDetails:
    """An error as it was raised: ours by its text, pydantic's own by its name."""
    context = known.get("ctx", {})
    ours = known["type"] == "allowed"
    kind = PydanticCustomError("allowed", "{expectation}", context) if ours else known["type"]
    return InitErrorDetails(type=kind, loc=known["loc"], input=known["input"], ctx=context)
