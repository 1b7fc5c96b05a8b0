"""What watchers cost the one who types, and what an hour of `yes` costs a browser, shortened to a minute.

    python benchmarks/live.py [--sessions 200] [--watchers 20] [--keys 300] [--rounds 3] [--flood 60] [--quick]

Everything runs on this machine over loopback, through the whole chain: websocket, terminal process, TLS, endpoint, TLS,
demo node, PTY. All sessions live: each prints a line a second and has a browser that reads. In each round the same
session is typed into without watchers, with all of them at that session, and with each at another one; the figures are
medians of the rounds, the ratios are taken within the run. Then Chromium shows `yes` and takes a Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.terminal import FleetOps, WebSocket, echo_times, percentile, settle
from fleetops.processes import stand_back
from tests.support.stack import Stack, running_stack

# A line a second by the shell alone: a node's own programs run on another machine than FleetOps, and cost it nothing.
TALK = b"exec 9<> <(:); while :; do printf '%(%T)T\\n'; read -rt 1 -u 9; done\r"
NODES = ("pay-api-eu1a-01", "pay-api-eu1b-02", "pay-worker-eu1a-01")
CHROMIUM = "/usr/bin/chromium"


class Watcher(FleetOps):
    """Somebody who looks at a session of another browser."""

    def __init__(self, stack: Stack, shell: FleetOps) -> None:
        self.session_id, self.person = shell.session_id, shell.person
        headers = {"Cookie": self.person.cookie_header(), "Origin": stack.url}
        self.web = WebSocket(stack.status["ports"]["terminal"], f"/ws/sessions/{self.session_id}/", headers)
        self.web.send(b'{"type":"attach","cols":100,"rows":30,"from":null,"watch":true}', 1)
        self.offset = self.seen = 0

    def close(self) -> None:
        self.web.socket.close()


@contextlib.contextmanager
def drained(shells: list[FleetOps]):
    """Read all of them in a process of its own, as browsers elsewhere do: it stands back behind what is measured."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        stand_back(10)
        by_socket = {shell.web.socket: shell for shell in shells}
        try:
            while by_socket:
                for ready in select.select(list(by_socket), [], [], 1.0)[0]:
                    while by_socket[ready].read(0.001):  # 0 would look at nothing
                        pass
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def typed(shell: FleetOps, keys: int) -> tuple[float, float]:
    """(p50, p99) in milliseconds from a key to its echo."""
    times = echo_times(shell, keys)
    return statistics.median(times) * 1000, percentile(times, 0.99) * 1000


def watched(stack: Stack, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """The echo in each arrangement."""
    person = stack.log_in()
    print(f"opening {options.sessions} sessions", file=sys.stderr)
    others = []
    for number in range(options.sessions - 1):
        shell = FleetOps(stack, person, NODES[number % len(NODES)])
        settle(shell)
        shell.type(TALK)
        others.append(shell)
    rounds: dict[str, list[tuple[float, float]]] = {}
    with drained(others):
        shell = FleetOps(stack, person, NODES[0])
        arrangements = {
            "no watchers": [],
            f"{options.watchers} watchers at it": [shell] * options.watchers,
            f"{options.watchers} watchers elsewhere": others[: options.watchers],
        }
        for number in range(options.rounds):
            for name, targets in arrangements.items():
                print(f"round {number + 1}: {name}", file=sys.stderr)
                watchers = [Watcher(stack, target) for target in targets]
                with drained(watchers):
                    rounds.setdefault(name, []).append(typed(shell, options.keys))
                for watcher in watchers:
                    watcher.close()
        shell.close()
    for other in others:
        other.close()
    return {
        name: (statistics.median(p50 for p50, _ in each), statistics.median(p99 for _, p99 in each))
        for name, each in rounds.items()
    }


def flooded(stack: Stack, seconds: float) -> tuple[float, float, float]:
    """Chromium shows `yes`: (megabytes of heap before, after, seconds from Ctrl-C to the prompt)."""
    from playwright.sync_api import sync_playwright  # only here: the rest needs no browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(base_url=stack.url, viewport={"width": 1440, "height": 900})
        for cookie in stack.log_in().cookies:
            context.add_cookies([{"name": cookie.name, "value": cookie.value or "", "url": stack.url}])
        page = context.new_page()
        page.goto("/fleet/")
        page.get_by_role("row").filter(has_text=NODES[0]).get_by_role("button", name="Connect").click(timeout=60_000)
        page.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
        page.wait_for_function("() => window.fleetopsTerminal && /[$#] $/.test(fleetopsTerminal.text())")
        tools = context.new_cdp_session(page)
        tools.send("Performance.enable")

        def heap() -> float:
            tools.send("HeapProfiler.collectGarbage")
            metrics = {each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]}
            return metrics["JSHeapUsedSize"] / 2**20

        page.keyboard.type("seq 20000\n")  # the scroll-back is full from here on
        page.wait_for_function("() => /^20000\\s[^]*[$#] $/m.test(fleetopsTerminal.text())", timeout=30_000)
        before = heap()
        page.keyboard.type("yes\n")
        time.sleep(seconds)
        after = heap()
        page.evaluate(
            """() => {
                window.stopped = new Promise(resolve => {
                    addEventListener("keydown", event => {
                        if (!event.ctrlKey || event.key !== "c") return;
                        const began = performance.now();
                        const look = () => {
                            const { active } = fleetopsTerminal.terminal.buffer;
                            const line = active.getLine(active.baseY + active.cursorY).translateToString(true);
                            if (/[$#] ?$/.test(line)) resolve((performance.now() - began) / 1000);
                            else setTimeout(look, 1);
                        };
                        look();
                    }, { capture: true });
                });
            }"""
        )
        page.keyboard.press("Control+c")
        took = page.evaluate("() => window.stopped")
        browser.close()
    return before, after, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", type=float, default=60, help="seconds of `yes` in Chromium; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="a few sessions, one round, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.sessions, options.watchers, options.keys, options.rounds, options.flood = 10, 5, 60, 1, 5
    with tempfile.TemporaryDirectory(prefix="fo-live-") as home, running_stack(Path(home)) as stack:
        if options.flood:
            before, after, took = flooded(stack, options.flood)
            print(f"`yes` for {options.flood:g} s: heap {before:.1f} MB, then {after:.1f} MB: {after - before:+.1f} MB")
            print(f"(aim: below 30). From Ctrl-C to the prompt {took:.3f} s (aim: 0.1).\n")
        figures = watched(stack, options)
    print(f"| {options.sessions} live sessions | echo p50 ms | p99 ms |\n| --- | --- | --- |")
    for name, (p50, p99) in figures.items():
        print(f"| {name} | {p50:.2f} | {p99:.2f} |")
    alone = figures["no watchers"]
    for name, (p50, p99) in list(figures.items())[1:]:
        print(f"{name}: p50 × {p50 / alone[0]:.2f}, p99 × {p99 / alone[1]:.2f} (aim: p99 at most 50 ms)")


if __name__ == "__main__":
    main()
