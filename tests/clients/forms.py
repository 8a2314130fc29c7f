"""What the client suites have replies parsed into."""

from typing import Literal

import pydantic


class Soup(pydantic.BaseModel):
    """How long a soup takes."""

    model_config = pydantic.ConfigDict(extra="forbid")

    minutes: int = pydantic.Field(ge=1, le=600)


class Dish(pydantic.BaseModel):
    """A form without bounds: Anthropic's SDK takes those out of a schema before it is sent."""

    model_config = pydantic.ConfigDict(extra="forbid")

    kind: Literal["soup", "cake", "salad"]
    vegan: bool
