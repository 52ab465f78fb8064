from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AliasGenerator, BaseModel, ConfigDict, PlainSerializer, StringConstraints
from pydantic.alias_generators import to_camel


def check_email(email: str) -> str:
    if "@" not in email or len(email.encode()) > 254:
        raise ValueError("not an email address")
    return email


def rfc3339(time: datetime) -> str:
    # PostgreSQL returns UTC. Pydantic's default format omits a zero fraction.
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


Time = Annotated[datetime, PlainSerializer(rfc3339, return_type=str)]


class UserIn(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    email: Annotated[str, AfterValidator(check_email)]


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True, alias_generator=AliasGenerator(serialization_alias=to_camel))

    id: UUID
    name: str
    email: str
    version: int
    created_at: Time
    updated_at: Time
