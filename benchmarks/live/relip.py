"""`lipwire bench relip`: what relip() of the npm client adds to a picture, in a real Chromium.

A page numbers the pictures of its camera and sends them through relip() and, beside it, through a
bare pair of connections on the same machine. What the first takes longer is the server's way and
whatever the client adds; the server says what its own part was. Then the server is killed and
started again.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.harness.record import figure
from lipwire.benchmarks.rig.chromium import find_chromium, headless
from lipwire.benchmarks.rig.scenes import Pose, scene
from lipwire.benchmarks.rig.server import end_server, free_port, start_server
from lipwire.engine.errors import ConfigError, LipwireError

SCRIPT = Path(__file__).parents[1] / "rig" / "relip.js"
COUNT = """() => {
  const video = document.querySelector("video");
  window.shown = 0; // the element's own count begins again with another stream
  const next = () => video.requestVideoFrameCallback(() => { shown++; next(); });
  next();
}"""
SETTLE_S = 8.0  # Chromium's own buffers have their length by then
# Chromium shows pictures 60 times a second: a picture is seen up to so much later.
TICK_MS = 17.0
BACK_S = 3.0
PATIENCE_S = 60.0


def run(
    *,
    seconds: Annotated[float, Ge(3), Le(120)] = 20,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """What relip() adds, and how soon pictures are back after the server was killed.

    Args:
        seconds: measured.
        progress: told what is going on.
    """
    program = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        raise ConfigError(
            "`bench relip` needs Chromium and playwright: apt-get install chromium, "
            "pip install playwright"
        )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server, _ = start_server(port, None)
    try:
        with sync_playwright() as playwright:
            # Two tabs: one of them is always behind.
            in_front = (
                "--disable-background-timer-throttling",
                "--disable-renderer-backgrounding",
                "--disable-backgrounding-occluded-windows",
            )
            browser = playwright.chromium.launch(**headless(program, *in_front))
            page = browser.new_page()
            page.goto(f"{url}/healthz")
            page.add_script_tag(
                content=f"{SCRIPT.read_text()}\nwindow.begin = begin;", type="module"
            )
            page.wait_for_function("'begin' in window")
            page.evaluate("(face) => begin('bench', face)", _face())
            progress(f"{seconds:g} s of pictures")
            _until(lambda: page.evaluate("Object.keys(found.relip).length") > 25, "pictures")
            page.wait_for_timeout(1000 * SETTLE_S)
            since = page.evaluate("performance.now()")
            page.wait_for_timeout(1000 * seconds)
            found = page.evaluate("found")
            traces = httpx.get(f"{url}/api/sessions/bench/trace").json()
            viewer = browser.new_page()
            viewer.goto(f"{url}/view/bench#quiet")
            viewer.evaluate(COUNT)
            _until(lambda: viewer.evaluate("shown") > 25, "pictures for a viewer")
            progress("the server is killed and started again")
            server.kill()
            server.wait()
            _until(lambda: page.evaluate("found.states.at(-1)?.[0]") == "lost", "the loss")
            server, _ = start_server(port, None)
            ready = time.monotonic()
            seen = {
                "relip": lambda: page.evaluate("Object.keys(found.relip).length"),
                "viewer": lambda: viewer.evaluate("shown"),
            }
            back = _back(seen, ready)
            names = [each["id"] for each in httpx.get(f"{url}/api/sessions").json()]
            browser.close()
    finally:
        end_server(server)
    return _result(found, since, traces, back, names)


def _face() -> str:
    """A picture for the camera, as an address."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(scene(Pose(320, 240, 150))).save(data, "png")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _until(condition: Callable[[], bool], what: str) -> None:
    begun = time.monotonic()
    while not condition():
        if time.monotonic() > begun + PATIENCE_S:
            raise LipwireError(f"within {PATIENCE_S:g} s: no {what}")
        time.sleep(0.05)


def _back(seen: dict[str, Callable[[], int]], ready: float) -> dict[str, float]:
    """Seconds until each has shown more pictures than it had."""
    before = {name: count() for name, count in seen.items()}
    back: dict[str, float] = {}

    def look() -> bool:
        for name, count in seen.items():
            if name not in back and count() > before[name]:
                back[name] = time.monotonic() - ready
        return len(back) == len(seen)

    _until(look, "pictures after the server was started again")
    return back


def _result(
    found: dict[str, Any],
    since: float,
    traces: dict[str, Any],
    back: dict[str, float],
    names: list[str],
) -> dict[str, Any]:
    drawn, bare, through = (
        {int(n): at for n, at in found[k].items() if at >= since}
        for k in ("drawn", "bare", "relip")
    )
    both = sorted(drawn.keys() & bare.keys() & through.keys())
    added = [through[n] - bare[n] for n in both]
    columns = traces["columns"]
    first, last = columns.index("received"), columns.index("sent")
    ways = [(row[first], row[last]) for row in traces["pictures"]]
    server = [1000 * (sent - came) for came, sent in ways if None not in (came, sent)]
    if not added or not server:
        raise LipwireError("no picture was seen both ways: the machine is too busy")
    p50, own = float(np.median(added)), float(np.median(server))
    return {
        "seconds": (max(drawn.values()) - since) / 1000,
        "figures": {
            "pictures": figure(len(both)),
            "relip_added_p50_ms": figure(p50, "ms"),
            "server_p50_ms": figure(own, "ms"),
            "beyond_the_server_p50_ms": figure(p50 - own, "ms", most=TICK_MS),
            "camera_to_relip_p50_ms": figure(_apart_ms(through, drawn, both), "ms"),
            "bare_connection_p50_ms": figure(_apart_ms(bare, drawn, both), "ms"),
            **{f"{name}_back_s": figure(value, "s", most=BACK_S) for name, value in back.items()},
            "same_name": figure(int(names == ["bench"]), least=1),
        },
        "samples": {"added_ms": added, "server_ms": server},
    }


def _apart_ms(late: dict[int, float], early: dict[int, float], numbers: list[int]) -> float:
    return float(np.median([late[n] - early[n] for n in numbers]))
