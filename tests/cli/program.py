"""The real program, run in this process or in one of its own."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest

from calico_k8s.cli.main import main

CODE = "from calico_k8s.cli.main import main; main()"
ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    """What became of it."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # Any: what JSON can say
        """Standard output, decoded."""
        return msgspec.json.decode(self.out)


def run(*arguments: object, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
    """Run the program here."""
    out, err = io.StringIO(), io.StringIO()
    source = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with (
        patch.dict(os.environ, env or {}),
        patch("sys.stdin", source),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, out.getvalue(), err.getvalue())


def run_apart(*arguments: object, cwd: Path | None = None, stdin: str = "") -> Ran:
    """Run the program as a process, with pipes around it."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def run_on_terminal(code: str, *arguments: object, env: Mapping[str, str] | None = None) -> str:
    """Run Python code with a terminal for its standard output and error; what it showed."""
    ours, its = os.openpty()
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**plain, "PYTHONPATH": str(ROOT), "TERM": "xterm", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    try:
        # Linux tells the end of a terminal that nobody has open any more as an error.
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()
