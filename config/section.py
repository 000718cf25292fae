"""What sections of the settings are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def allowed(expectation: str) -> PydanticCustomError:
    """What a validator raises: the setting "should be" as the expectation says."""
    return PydanticCustomError("allowed", "{expectation}", {"expectation": f"should be {expectation}"})


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
