from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from database import User, engine, get_session
from schemas import UserIn, UserOut

UNIQUE_VIOLATION = "23505"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
SessionDep = Annotated[AsyncSession, Depends(get_session)]


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "up"}


@app.get("/users/{id}", response_model=UserOut)
async def find(id: UUID, session: SessionDep) -> User:
    user = await session.get(User, id)
    if user is None:
        raise HTTPException(404, "user not found")
    return user


@app.get("/users", response_model=list[UserOut])
async def list_users(
    session: SessionDep,
    email: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> Sequence[User]:
    query = select(User)
    if email is not None:
        query = query.where(User.email_key == email.lower())
    else:
        query = query.order_by(User.id).limit(limit)
        if after is not None:
            query = query.where(User.id > after)
    return (await session.scalars(query)).all()


@app.post("/users", response_model=UserOut, status_code=201)
async def create(draft: UserIn, session: SessionDep, response: Response) -> User:
    now = datetime.now(UTC)
    user = User(
        id=uuid7(),
        name=draft.name,
        email=draft.email,
        email_key=draft.email.lower(),
        version=1,
        created_at=now,
        updated_at=now,
    )
    session.add(user)
    try:
        await session.commit()
    except IntegrityError as error:
        if error.orig.sqlstate == UNIQUE_VIOLATION:
            raise HTTPException(409, "email already in use") from error
        raise
    response.headers["Location"] = f"/users/{user.id}"
    return user
