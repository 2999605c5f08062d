#!/usr/bin/env python3
"""Measures the agent: memory, CPU time and delay, when idle, at a high rate and after a burst of kernel lines.

    sudo agent/bench/footprint.py target/release/nodemend-agent [--idle SECONDS] [--flood SECONDS]

It writes to the real kernel log, which requires root, and disables the kernel's rate limit for writers while it runs.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
LIMIT = pathlib.Path("/proc/sys/kernel/printk_devkmsg")
# The kernel log still contains the lines of earlier runs.
RUN = f"{os.getpid()}-{int(time.time())}"
# One reason per marker: a repeated finding with the same reason is reported again only much later.
RULES = "rules:\n" + "".join(
    f"- {{reason: FootprintMarker{number}, source: kmsg, facility: any, severity: Event, condition: KernelReady, "
    f"pattern: 'footprint {RUN} marker {number}$'}}\n"
    for number in range(1, 4)
)


class Agent:
    def __init__(self, binary, listen):
        self.directory = tempfile.TemporaryDirectory()
        rules = pathlib.Path(self.directory.name) / "rules.yaml"
        rules.write_text(RULES)
        self.listen = listen
        self.seen = {}
        self.process = subprocess.Popen(
            [
                binary, "run", "--sink", "stdout", "--cluster", "bench", "--node", "bench.internal",
                "--instance-id", "i-0123456789abcdef0", "--zone", "us-east-1a", "--no-imds",
                "--state-dir", self.directory.name + "/state", "--rules", str(rules), "--listen", listen,
                "--accept-injected",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.process.stdout:
            now = time.monotonic()
            for finding in json.loads(line).get("findings", []):
                if finding["reason"].startswith("FootprintMarker"):
                    self.seen.setdefault(finding["reason"].removeprefix("FootprintMarker"), now)
                if finding["reason"] == "KernelLogOverrun":
                    self.seen.setdefault("overrun", now)

    def ticks(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def rss(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 2**20

    def metric(self, name):
        page = urllib.request.urlopen(f"http://{self.listen}/metrics", timeout=5).read().decode()
        return next(int(line.split()[1]) for line in page.splitlines() if line.startswith(f"nodemend_agent_{name} "))

    def wait(self, key, since, limit=10.0):
        while key not in self.seen:
            if time.monotonic() - since > limit:
                return None
            time.sleep(0.005)
        return self.seen[key] - since


def write(kmsg, text):
    os.write(kmsg, f"<6>{text}\n".encode())


def measure(agent, seconds, work=lambda: None):
    """CPU time in percent of a core and the largest resident memory in MiB, over `seconds` of calling `work`."""
    before, started, largest = agent.ticks(), time.monotonic(), 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        work()
        largest = max(largest, agent.rss())
    return 100.0 * (agent.ticks() - before) / TICKS / elapsed, largest


def row(name, *cells):
    print(f"{name:34}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--flood", type=float, default=60)
    parser.add_argument("--listen", default="127.0.0.1:9192")
    options = parser.parse_args()
    if not os.access("/dev/kmsg", os.W_OK):
        sys.exit("footprint: skipped: writing to /dev/kmsg requires root")
    limit = LIMIT.read_text().split()[0]
    try:
        LIMIT.write_text("on\n")
    except OSError as error:
        print(f"footprint: failed to disable the kernel's rate limit: {error}", file=sys.stderr)
    kmsg = os.open("/dev/kmsg", os.O_WRONLY)
    agent = Agent(options.agent, options.listen)
    try:
        started = time.monotonic()
        while True:
            try:
                agent.metric("lines_total")
                break
            except OSError:
                if time.monotonic() - started > 10:
                    sys.exit("footprint: the agent does not serve its metrics")
                time.sleep(0.05)
        write(kmsg, f"footprint {RUN} marker 1")
        delay = agent.wait("1", time.monotonic())
        row("", "CPU % of a core", "RSS MiB", "to report, s", "lines lost")
        row("a kernel line, first one", "", "", "never" if delay is None else f"{delay:.3f}", "")

        cpu, rss = measure(agent, options.idle, lambda: time.sleep(0.5))
        row(f"idle, {options.idle:.0f} s", f"{cpu:.3f}", f"{rss:.1f}", "", agent.metric("lines_lost_total"))

        number, lines = 0, agent.metric("lines_total")
        lost = agent.metric("lines_lost_total")

        def flood():
            nonlocal number
            started = time.monotonic()
            for _ in range(100):
                number += 1
                write(kmsg, f"nodemend footprint line {number} of a verbose program")
            time.sleep(max(0.0, 0.1 - (time.monotonic() - started)))

        cpu, rss = measure(agent, options.flood, flood)
        write(kmsg, f"footprint {RUN} marker 2")
        delay = agent.wait("2", time.monotonic())
        read = agent.metric("lines_total") - lines
        lost = agent.metric("lines_lost_total") - lost
        row(f"1,000 lines/s, {options.flood:.0f} s ({number} written, {read} read)"[:34], f"{cpu:.3f}", f"{rss:.1f}",
            "never" if delay is None else f"{delay:.3f}", lost)

        started = time.monotonic()
        for line in range(60_000):
            write(kmsg, f"nodemend footprint burst {line}")
        took = time.monotonic() - started
        write(kmsg, f"footprint {RUN} marker 3")
        delay = agent.wait("3", time.monotonic())
        overrun = agent.metric("lines_lost_total") - lost
        reported = "reported" if agent.wait("overrun", time.monotonic(), 2.0) is not None else "not reported"
        row(f"after 60,000 lines in {took:.2f} s", "", f"{agent.rss():.1f}",
            "never" if delay is None else f"{delay:.3f}", f"{overrun} ({reported})")
        size = os.stat(options.agent).st_size / 2**20
        row("binary, MiB", "", f"{size:.1f}", "", "")
    finally:
        agent.process.terminate()
        agent.process.wait(10)
        LIMIT.write_text(limit + "\n")


if __name__ == "__main__":
    main()
