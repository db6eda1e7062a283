"""What the models of payloads and results have in common. Only the router's side imports it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

Path = Annotated[str, Field(min_length=1, json_schema_extra={"format": "path"})]

# A typed dictionary, not a model: it keeps its "$secret" key however the payload is dumped.
SecretReference = TypedDict("SecretReference", {"$secret": str})
SecretReference.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]


class Payload(BaseModel):
    """What every payload but `echo`'s has in common: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ItemError(BaseModel):
    """Why one item failed."""

    code: str = Field(description="An error code, as of a task.")
    message: str = Field(description="What went wrong, naming the values.")


class Outcome(BaseModel):
    """What became of one item: a result or an error."""

    result: Any = Field(None, description="The item's own result.")
    error: ItemError | None = Field(None, description="Why there is no result.")


Outcomes = Annotated[
    list[Outcome] | None, Field(description="With `items`: one outcome for each, in their order.")
]
