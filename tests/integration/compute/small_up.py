"""A supervisor as small as can be, to be killed by tests: `python -m tests.integration.compute.small_up <folder>`.

Runs one process of ours and one foreign program under the guard, prints their pids as JSON and sleeps.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.guard import guarded
from cloudcrest.infra.lifeline import Lifeline
from tests.support.waiting import until_async

OURS = (
    "import os, time; from cloudcrest.infra.lifeline import exit_with_lifeline;"
    "exit_with_lifeline(); print(os.getpid(), flush=True); time.sleep(600)"
)
FOREIGN = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


async def main(folder: Path) -> None:
    host = ProcessHost(log_folder=folder, working_folder=folder, lifeline=Lifeline(), environment=os.environ)
    await host.start(ProcessSpec(id="ours", argv=(sys.executable, "-c", OURS)))
    await host.start(ProcessSpec(id="foreign", argv=guarded((sys.executable, "-c", FOREIGN))))

    async def have_spoken() -> bool:
        return all(status.log_tail for status in await host.list())

    await until_async(have_spoken, "the processes' first words")
    pids = {status.id: [status.pid, int(status.log_tail)] for status in await host.list()}
    sys.stdout.write(json.dumps(pids) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
