"""Records the ledgers of one version of this program, to be kept for ever in tests/versions/VERSION.

Run it once before a schema changes, from a checkout of that version, as root and with an engine:

    PYTHONPATH=.:tests unshare --uts sh -c 'hostname example; python tests/versions/record.py tests/versions/VERSION'

Beside each ledger (with its -wal, if a killed process left one) stands what it says: the rows of `call`, how many
rows there are of everything else, and digests of the log and the histograms. `test_migrations` reads them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import ledgers

from calls import Runner
from ledger.sqlite import sqlite3

COUNTED = ("event", "sample", "log", "histogram")
DIES = """
import os, signal, sys, time, threading
from calls import Runner
runner, started = Runner(sys.argv[1]), threading.Semaphore(0)
from calls.options import build_spec
ask = dict(network="none", name="unfinished", sample="100ms", timeout="1h", stop_timeout="1s")
script = ["sh", "-c", "echo begun; exec sleep 600"]
one = runner.submit_spec(build_spec("busybox", script, **ask), started=started.release)
two = runner.submit_spec(build_spec(None, script, driver="local", sample="100ms"), started=started.release)
started.acquire(), started.acquire()
time.sleep(2.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def on_the_engine(path: Path) -> None:
    """Every end that an engine can bring about."""
    with Runner(path) as runner:
        run = {"network": "none"}
        runner.run("busybox", ["sh", "-c", "echo out; echo err >&2; exit 0"], name="ok", label=["team=a"], **run)
        runner.run("busybox", ["sh", "-c", "exit 3"], name="three", **run)
        runner.run("busybox", ["true"], env=["PASSWORD=rather secret"], **run)
        runner.run("busybox", ["sleep", "60"], name="slow", timeout="1s", stop_timeout="1s", **run)
        runner.run("busybox", ["tail", "/dev/zero"], name="hungry", memory="16m", **run)
        runner.run("busybox", ["no-such-command"], **run)
        runner.run("nosuch.invalid/image:1", ["true"], pull="never")
        probe = {"health_cmd": "true", "health_interval": "1s", "health_timeout": "30s"}
        runner.run("busybox", ["sleep", "3"], name="healthy", sample="100ms", **probe, **run)
        runner.run("busybox", ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"], log_limit="1k", **run)
        for end in (runner.cancel, runner.kill):
            stopped(runner, end, stop_timeout="1s", **run)


def stopped(runner: Runner, end: Callable[[str], None], **options: Any) -> None:
    """A call that is ended as soon as it runs."""
    from threading import Event

    from calls.options import build_spec

    started = Event()
    future = runner.submit_spec(build_spec("busybox", ["sleep", "60"], **options), started=started.set)
    started.wait(60)
    end(future.id)
    future.result()


def of_local_processes(path: Path) -> None:
    """A long one, with more samples than a histogram has buckets, and short ones."""
    with Runner(path) as runner:
        long = runner.submit(None, ["sh", "-c", "echo begun; sleep 26; echo ended"], driver="local", sample="100ms")
        runner.run(None, ["sh", "-c", "echo out; echo err >&2; exit 4"], driver="local", name="four")
        runner.run(None, ["/no/such/command"], driver="local")
        runner.run(None, ["sleep", "60"], driver="local", timeout="1s")
        runner.run(None, ["sh", "-c", "kill -9 $$"], driver="local")
        long.result()


def unfinished(path: Path) -> None:
    """Two calls that run, and a runner that was killed: its last events are only in the -wal."""
    ended = subprocess.run([sys.executable, "-c", DIES, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    pid = "SELECT data ->> 'pid' FROM event WHERE call_id = call.id AND kind = 2"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        left = connection.execute(f"SELECT driver, uid, ({pid}) FROM call").fetchall()
    for driver, uid, process_id in left:
        if driver == "local":
            os.kill(process_id, signal.SIGKILL)
        else:
            docker.from_env().api.remove_container(uid, force=True)


RECORDED = {
    "small": ledgers.small,
    "engine": on_the_engine,
    "local": of_local_processes,
    "unfinished": unfinished,
}


def told(path: Path) -> dict[str, Any]:
    """What a ledger says."""
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute("SELECT * FROM call ORDER BY id")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        log = b"".join(digest for (digest,) in connection.execute("SELECT digest FROM event ORDER BY id"))
        points = connection.execute("SELECT * FROM histogram ORDER BY call_id, metric, bucket").fetchall()
        return {
            "schema": connection.execute("PRAGMA user_version").fetchone()[0],
            "ledger": connection.execute("SELECT value FROM meta WHERE key = 'ledger'").fetchone()[0],
            "rows": {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in COUNTED},
            "log": hashlib.sha256(log).hexdigest(),
            "histogram": hashlib.sha256(json.dumps(points).encode()).hexdigest(),
            "call": rows,
        }


def keep(path: Path, folder: Path) -> None:
    """Put a ledger away, and what it says."""
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
    with tempfile.TemporaryDirectory() as away:
        copy = Path(shutil.copy(path, away))
        if Path(f"{path}-wal").exists():
            shutil.copy(f"{path}-wal", f"{copy}-wal")
        text = json.dumps(told(copy), indent=1, ensure_ascii=False)
    (folder / f"{path.stem}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, record in RECORDED.items():
        with tempfile.TemporaryDirectory() as place:
            os.environ["XDG_CONFIG_HOME"] = place
            made = Path(place) / f"{name}.db"
            record(made)
            keep(made, Path(sys.argv[1]))
