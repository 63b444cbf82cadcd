"""Every refusal that a person or a machine can meet: a sentence, its place, and what to do.

Refusal          exit code   who meets it does what
  BadInput           2       mends what was asked
  NotFound           3       looks for the right name
  Conflict           4       looks how it stands now
  Closed             4       ends: it is a gang whose attempt is over
  Unreachable        5       tries again later
  Forbidden          6       asks for another token
Stale            a writer reads again and decides again; nobody outside meets it
NotLeader        a leader ends its term; the same
"""

from typing import ClassVar


class Refusal(Exception):
    """We say no, and why; `exit_code` is the command line's, the HTTP door has a status each."""

    exit_code: ClassVar[int] = 2
    code: ClassVar[str] = "refused"

    def __init__(self, sentence: str, *, place: str = "", remedy: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.place = place  # "job.yaml:7 pretraining.epochs", "--queue", ...
        self.remedy = remedy

    def __str__(self) -> str:
        """One line: place, sentence, remedy."""
        place = f"{self.place}: " if self.place else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.sentence}{remedy}"


class BadInput(Refusal):
    """What was asked can't be meant like this."""

    exit_code = 2
    code = "bad_input"


class NotFound(Refusal):
    """There is no such thing."""

    exit_code = 3
    code = "not_found"


class Conflict(Refusal):
    """It contradicts what is already so."""

    exit_code = 4
    code = "conflict"


class Unreachable(Refusal):
    """The server or the database does not answer."""

    exit_code = 5
    code = "unreachable"


class Forbidden(Refusal):
    """The token does not open this door."""

    exit_code = 6
    code = "forbidden"


class Closed(Refusal):
    """The attempt is over: its writer is stale and has to end."""

    exit_code = 4
    code = "closed"


class Stale(Exception):
    """A write named a state that is no longer so; read again and decide again."""


class NotLeader(Exception):
    """Another server leads; this one's decision is void."""
