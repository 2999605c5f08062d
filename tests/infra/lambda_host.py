"""Lambda's Runtime API for one process of a function.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import queue
import subprocess
import time
from pathlib import Path

from server import Server
from template import ACCOUNT, REGION

# In seconds: longer than the longest invocation of a test, and shorter than a person would wait.
INVOCATION_TIMEOUT = 120


class Failed(Exception):
    """The function answered with an error, or ended."""


class Function:
    """A running function. `lines` has its log, while it runs and afterwards."""

    def __init__(self, program: Path, environment: dict, log: Path, problems: list):
        """`problems` is a list of errors elsewhere in the test: with the first one, an invocation stops waiting for its answer."""
        self.events, self.answers, self.log, self.problems = queue.Queue(), queue.Queue(), log, problems
        self.number = 0
        self.program = program
        self.server = Server(self.serve)
        own = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": program.name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128", "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": "x", "AWS_LAMBDA_LOG_STREAM_NAME": "x",
        }
        with log.open("a") as out:
            self.process = subprocess.Popen([program], env={**own, **environment}, stdout=out, stderr=subprocess.STDOUT)

    def serve(self, method: str, path: str, _, body: bytes):
        if method == "POST":
            self.answers.put((path.endswith("/response"), json.loads(body)))
            return 202, {}, b""
        event = self.events.get()
        if event is None:
            return None
        self.number += 1
        return 200, {
            "lambda-runtime-aws-request-id": str(self.number),
            "lambda-runtime-deadline-ms": str(int((time.time() + INVOCATION_TIMEOUT) * 1000)),
            "lambda-runtime-invoked-function-arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.program.name}",
            "content-type": "application/json",
        }, event

    def invoke(self, event) -> dict:
        self.begin(event)
        return self.finish()

    def begin(self, event):
        self.events.put(json.dumps(event).encode())

    def finish(self) -> dict:
        """Waits for the answer to the invocation that `begin` started."""
        deadline = time.monotonic() + INVOCATION_TIMEOUT
        while True:
            try:
                succeeded, answer = self.answers.get(timeout=0.1)
                break
            except queue.Empty:
                if self.problems or self.process.poll() is not None:
                    raise Failed(f"{self.problems}\n{self.log.read_text()}") from None
                if time.monotonic() > deadline:
                    raise Failed(f"no answer within {INVOCATION_TIMEOUT} s\n{self.log.read_text()}") from None
        if not succeeded:
            raise Failed(f"{answer}\n{self.log.read_text()}")
        return answer

    def end(self) -> int:
        """Ends the process, if it has not ended by itself, and returns its exit status."""
        self.process.terminate()
        status = self.process.wait(10)
        self.events.put(None)
        self.server.close()
        return status

    def lines(self) -> list:
        """The lines of its log that are JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
