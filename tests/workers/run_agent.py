"""An agent as a process of its own: HOME URL STORAGE."""

import logging
import os
import sys
from pathlib import Path

from workers.agent.local_ray import environment


def main(home: Path, url: str, storage: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ.update(environment(home))  # before Ray is imported: it reads its environment then
    from workers.agent.agent import AgentSettings, run_agent

    run_agent(
        AgentSettings(
            name="agent",
            service_urls=(url,),
            token="agent's",
            storage_url=storage,
            home=home,
            local_cpus=8,
            entry="tests.workers.gang.standin:train",
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
