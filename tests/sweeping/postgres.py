"""A PostgreSQL server for one test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("initdb", "pg_ctl")


def is_installed() -> bool:
    return all(map(shutil.which, PROGRAMS))


@contextmanager
def server() -> Iterator[str]:
    """Starts a server on a free port of this machine; gives the URL of its database."""
    # The server refuses to run as root, and its user must reach the folder.
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres_") as folder, socket.socket() as free:
        if user is not None:
            shutil.chown(folder, user)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()

        def run(*command: str) -> None:
            subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=240)

        data = str(Path(folder) / "data")
        run("initdb", "-D", data, "-A", "trust", "-U", "sweep", "--no-sync")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -F"
        run("pg_ctl", "-D", data, "-w", "-t", "200", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://sweep@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
