"""Commands that Ctrl-C can always interrupt.

``subprocess.run`` reads a command's output from a pipe. An interrupt of Python alone, such as a
notebook's, that comes between two reads is noticed when there is more to read, which may be never.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

STEP_SECONDS = 0.5


def run(
    command: Sequence[str], *, check: bool = False, **settings: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, and return it with all that it printed, stderr with stdout.

    Args:
        command: its words.
        check: whether a status other than 0 raises CalledProcessError, with that output.
        settings: further ones of subprocess.Popen.
    """
    with tempfile.TemporaryFile() as output:
        settings |= {"stdout": output, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, **settings) as process:
            try:
                while not _ended(process):
                    pass
            except BaseException:
                process.kill()
                raise
        output.seek(0)
        said = output.read()
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return subprocess.CompletedProcess(command, process.returncode, said)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # Linux before 5.3, or a sandbox
        try:
            process.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        select.select([descriptor], [], [], STEP_SECONDS)  # wakes at once, where wait() polls
    finally:
        os.close(descriptor)
    return process.poll() is not None
