"""An emulated AWS on a port of its own."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

from template import REGION, ROOT

PROGRAM = ROOT / ".venv" / "local-stack" / "bin" / "ministack"


@contextlib.contextmanager
def emulator(directory: Path):
    """Runs an emulator, and yields its address. Its log is in the directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port),
        # Otherwise it would also listen on every interface, for IoT.
        "IOT_MTLS_ENABLED": "0", "AWS_DEFAULT_REGION": REGION, "MINISTACK_REGION": REGION, "NO_COLOR": "1",
    }
    with (directory / "emulator.log").open("w") as log:
        process = subprocess.Popen([PROGRAM], cwd=directory, env=variables, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (directory / "emulator.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, "it does not listen in time"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
