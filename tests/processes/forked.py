"""Commands in processes of their own that start in no time: forks of a server that has torch and the package imported.

A fork has its own arguments, folder, environment, output and exit code, and can be interrupted or killed by its number,
as an interpreter of its own can; only its imports are done, which cost an interpreter some 4 s. A test that is
about the start itself starts an interpreter.

As a program, this file is that server.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMPORTED = (  # torch's compiler too: torch itself imports it for a network without values and for an optimiser
    "torch._dynamo", "torch.fx.experimental.symbolic_shapes",
    "snn_energy.cli.commands", "snn_energy.datasets.open", "snn_energy.jobs.profile_run", "snn_energy.profiler.run",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "snn_energy.report.plots.activity", "snn_energy.report.plots.training", "snn_energy.studies.ablation",
    "snn_energy.studies.demo", "snn_energy.studies.trio", "snn_energy.training.train",
)  # fmt: skip
COMMAND = "from snn_energy.cli.main import main\nmain()\n"
LIMIT_S = 120
NUMBERS = itertools.count()


@dataclass
class Process:
    """A fork: its number, and its exit code once it has ended (minus the signal that ended it)."""

    arguments: list[str]
    pid: int
    output: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """The exit code, waited for; a process that takes too long is killed, and TimeoutExpired raised."""
        end = time.monotonic() + limit_s
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.arguments, limit_s)
            time.sleep(0.005)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def ended(self) -> subprocess.CompletedProcess[str]:
        """Exit code and output, waited for."""
        code = self.wait()
        out, err = (self.output.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".out", ".err"))
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def start(
    *arguments: str | Path,
    cwd: Path | None = None,
    code: str = "",
    program: str = COMMAND,
    environment: dict[str, str] | None = None,
) -> Process:
    """A command line that has begun. code: Python that runs before it; program: what runs in the command's place."""
    output = _folder() / str(next(NUMBERS))
    words = [str(argument) for argument in arguments]
    request = {
        "arguments": words,
        "code": textwrap.dedent(code) + "\n" + program,
        "cwd": str(cwd or Path.cwd()),
        "environment": {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        "out": str(output.with_suffix(".out")),
        "err": str(output.with_suffix(".err")),
    }
    return Process(words, _ask(request), output)


def run(*arguments: str | Path, cwd: Path | None = None, code: str = "", program: str = COMMAND) -> Any:
    """A command line from its start to its end: a CompletedProcess with its output as text."""
    return start(*arguments, cwd=cwd, code=code, program=program).ended()


def run_together(count: int, *arguments: str | Path, cwd: Path, code: str = "") -> Any:
    """One command line in so many processes that find one another as those of torchrun do; one that fails ends all.

    A CompletedProcess: the first exit code that is not 0, and all output, process by process.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    together = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "forked", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **together} for rank in range(count)]
    processes = [start(*arguments, cwd=cwd, code=code, environment=rank) for rank in ranks]
    failed = 0
    while not failed and None in (codes := [process.poll() for process in processes]):
        failed = next(filter(None, codes), 0)
        time.sleep(0.005)
    if failed:
        for process in processes:
            process.send_signal(signal.SIGTERM)
    done = [process.ended() for process in processes]
    failed = failed or next((process.returncode for process in done if process.returncode), 0)
    out, err = ("".join(getattr(process, name) for process in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(processes[0].arguments, failed, out, err)


# --- the server -----------------------------------------------------------------------------------------------------


@functools.cache
def _folder() -> Path:
    """For what the forks print, until the end."""
    folder = tempfile.mkdtemp(prefix="forked-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Started by the first that needs it; it ends with the process that started it, whose end closes its input."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env=os.environ | {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
    )  # fmt: skip
    atexit.register(server.communicate)
    return server


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    answer = server.stdout.readline()
    assert answer, "the server of forks has ended; its errors are above"
    return json.loads(answer)


def _serve() -> None:
    """Requests in, one line each, answers out: number of a new fork, or exit code of an old one."""
    for name in IMPORTED:
        importlib.import_module(name)
    threads = os.listdir("/proc/self/task") if sys.platform == "linux" else [""]
    assert len(threads) == 1, "a fork has one thread only: what it would find of others cannot be trusted"
    gc.freeze()  # forks share these pages as long as nobody counts what they hold
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the input
    ends = os.dup(0), os.dup(1)
    answers = os.fdopen(ends[1], "w", encoding="utf-8", closefd=False)
    for line in os.fdopen(ends[0], encoding="utf-8", closefd=False):
        request = json.loads(line)
        if "poll" in request:
            answer = _exit_code(request["poll"])
        else:
            answer = os.fork()
            if answer == 0:
                for end in ends:
                    os.close(end)
                _become(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _exit_code(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _become(request: dict[str, Any]) -> None:
    """The process that was asked for, to its end: with what is registered for it, but without taking torch apart."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT),
        (2, request["err"], os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["snn-energy", *request["arguments"]]
    code: Any = 0
    try:
        exec(compile(request["code"], "<forked>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001 (as an interpreter would)
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
