"""Writes deploy/.env with fresh random secrets, for the compose file beside it; never twice."""

import os
import secrets
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parents[1] / ".env"
OWNER_ONLY = 0o600
SECRET_BYTES = 32  # 64 hexadecimal digits: safe in a URL, and what a token of Strata asks for

SECRETS = {
    "POSTGRES_PASSWORD": "of the database, taken when its volume is made",
    "REDIS_PASSWORD": "of the bus",
    "RAY_AUTH_TOKEN": "of the Ray cluster: who has it runs code there",
    "STRATA_AGENT_TOKEN": "with which the agent comes to the servers",
    "STRATA_ADMIN_TOKEN": "yours: export STRATA_TOKEN=...",
    "GRAFANA_PASSWORD": "of Grafana's user `admin`, taken when its volume is made",
}


def main(words: list[str]) -> int:
    """Write the file that is named, or deploy/.env; 1 where it is there already."""
    path = Path(words[0]) if words else ENV
    lines = ["# Made by deploy/compose/make_env.py. Secrets: never commit this file."]
    for name, meaning in SECRETS.items():
        lines += [f"# {meaning}", f"{name}={secrets.token_hex(SECRET_BYTES)}"]
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        sys.stderr.write(f"{path} is there already, and the volumes know its passwords: kept\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{path} can't be written: {error.strerror}\n")
        return 1
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    sys.stdout.write(f"{path} is written; only you can read it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
