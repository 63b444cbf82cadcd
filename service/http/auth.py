"""Which door a token opens: a person's by role and project, an agent's and a gang's their own."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fastapi import Request
from fastapi.security import HTTPBearer

from service.domain.errors import BadInput, Closed, Forbidden
from service.domain.job import AttemptState
from service.domain.records import Attempt, Role, Token
from service.http.problems import Unauthorized

BEARER = HTTPBearer(auto_error=False)  # for the published API; we look ourselves, with sentences
TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 32, 512
TOKEN_MARKS = str.maketrans("", "", "-_.")
RANK = {role: number for number, role in enumerate(Role)}


class TokenReader(Protocol):
    """What this file asks of the store."""

    def token(self, sha256: str) -> Token | None:
        """The record of a token that is valid now."""

    def attempt_of_token(self, sha256: str) -> Attempt | None:
        """The attempt whose gang holds this token."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    name: str
    role: Role
    project: str | None

    @property
    def actor(self) -> str:
        """As events name them."""
        return f"user:{self.name}"


class Auth:
    """Looks tokens up by their hash, so that no comparison's time tells anything."""

    def __init__(self, tokens: TokenReader) -> None:
        self._tokens = tokens

    def person(self, request: Request, role: Role) -> Identity:
        """The person who asks, if the token has at least this role; else Forbidden."""
        token = self._tokens.token(_sha256(request))
        if token is None:
            raise Unauthorized(
                "the token is unknown, expired or revoked", remedy="set STRATA_TOKEN"
            )
        if token.is_agent:
            raise Forbidden("an agent's token opens its own door only")
        if RANK[token.role] < RANK[role]:
            raise Forbidden(f"{token.name} is a {token.role}; this takes a {role}")
        return Identity(token.name, token.role, token.project)

    def agent(self, request: Request, name: str) -> None:
        """Nothing, if the token is this agent's; else Forbidden."""
        token = self._tokens.token(_sha256(request))
        if token is None:
            raise Unauthorized(
                "the token is unknown, expired or revoked", remedy="set STRATA_TOKEN"
            )
        if not token.is_agent or token.name != name:
            raise Forbidden(f"this is not agent {name!r}'s token")

    def gang(self, request: Request, job_id: str, number: int) -> Attempt:
        """The attempt whose gang asks; Forbidden for another's, Closed once it is over."""
        attempt = self._tokens.attempt_of_token(_sha256(request))
        if attempt is None:
            raise Unauthorized("no attempt has this token")
        if attempt.job_id != job_id or attempt.number != number:
            raise Forbidden("a gang's token opens its own attempt only")
        if attempt.state is AttemptState.GONE:
            raise Closed(f"attempt {number} of {job_id} is over")
        return attempt


def sha256_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token(
    name: str,
    now: datetime,
    *,
    role: Role = Role.VIEWER,
    is_agent: bool = False,
    project: str | None = None,
    expires_at: datetime | None = None,
    text: str | None = None,
) -> tuple[str, Token]:
    """A new token, to be shown once, and its record; `text` is one that was made elsewhere.

    Raises:
        BadInput: the text is too short to be a secret, or can't stand in a header.
    """
    if text is None:
        text = "strata_" + secrets.token_urlsafe(32)
    elif not (TOKEN_CHARS_MIN <= len(text) <= TOKEN_CHARS_MAX and _is_word(text)):
        raise BadInput(
            f"is no token: {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} letters, digits, -, _ or .",
            place="--token-file",
            remedy="make one with `openssl rand -hex 32`",
        )
    return text, Token(
        sha256=sha256_of(text),
        name=name,
        is_agent=is_agent,
        role=role,
        project=project,
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
    )


def _is_word(text: str) -> bool:
    return text.isascii() and text.translate(TOKEN_MARKS).isalnum()


def _sha256(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthorized("a token is needed", remedy="set STRATA_TOKEN")
    return sha256_of(token)
