"""What can be measured: every benchmark by name, one line each; nothing is imported before it runs.

A benchmark is a function `run(...) -> dict` (`benchmarks/harness/record.py` says what is in it).
Its parameters become options of `lipwire bench NAME`, with the texts of its docstring; one named
`progress` is told what is going on instead.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lipwire.engine.errors import ConfigError

TORCH = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark."""

    name: str
    help: str
    run: str
    """module:function"""
    needs: tuple[str, ...] = ()
    """packages that a plain installation lacks"""

    def load(self) -> Callable[..., dict[str, Any]]:
        """The function.

        Raises:
            ConfigError: something that it needs is not installed.
        """
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(
                f"`bench {self.name}` needs {', '.join(lacking)}, not installed here: "
                "pip install 'lipwire[train]'"
            )
        module, _, name = self.run.partition(":")
        found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        return found


BENCHES = (
    Bench("latency", "One call, glass to glass, and every stage's share of it.",
          "lipwire.benchmarks.live.latency:run"),
    Bench("capacity", "Sessions are added until it judders: how many this machine carries.",
          "lipwire.benchmarks.live.capacity:run"),
    Bench("denoiser", "Time and GFLOP/s of the networks beside this machine's own matrix product.",
          "lipwire.benchmarks.model.denoiser:run", TORCH),
    Bench("paper", "The paper's headline: 25 steps, 200 frames of 128x128.",
          "lipwire.benchmarks.model.paper:run", TORCH),
    Bench("simulate", "Sessions against devices in virtual time: missed deadlines, and the least.",
          "lipwire.benchmarks.model.simulate:command"),
    Bench("fleet", "1 to 1,000 nodes and their audience in virtual time: what breaks first.",
          "lipwire.benchmarks.model.fleet:run"),
    Bench("loss", "R5: a call over a path that loses packets: freezes, holes in the sound.",
          "lipwire.benchmarks.live.transport:loss"),
    Bench("delay", "R11: what a call adds to a picture, passed through and painted.",
          "lipwire.benchmarks.live.transport:delay"),
    Bench("soak", "R1: calls that last: pictures, sound, the server's memory.",
          "lipwire.benchmarks.live.transport:soak"),
    Bench("overload", "A device that is slowed in the middle of a call: pictures, sound, way back.",
          "lipwire.benchmarks.live.overload:run"),
    Bench("churn", "R2: calls that come and go, a third of them killed: what is left.",
          "lipwire.benchmarks.live.churn:churn"),
    Bench("quality", "What viewers see: blending, jitter, silence, interruption, tracking.",
          "lipwire.benchmarks.model.quality:run"),
    Bench("sync", "R10: lips against sound at the receiver.",
          "lipwire.benchmarks.live.sync:run"),
    Bench("hostile", "R7, R13: bombs, floods, noise; the server, its memory, a bystander's call.",
          "lipwire.benchmarks.live.hostile:run"),
    Bench("overload-admission", "R6: twice as many calls as a server takes: refused, admitted.",
          "lipwire.benchmarks.live.outage:overload_admission"),
    Bench("vanish", "R3, R4: who never connects, and who is killed: how long each is kept.",
          "lipwire.benchmarks.live.outage:vanish"),
    Bench("fault", "R8: a model that raises, hangs and runs out of memory during a call.",
          "lipwire.benchmarks.live.outage:fault"),
    Bench("drain", "R9: SIGTERM while calls run.", "lipwire.benchmarks.live.outage:drain"),
    Bench("codecs", "What the video codecs cost on this machine, and how they look.",
          "lipwire.benchmarks.live.codecs:run"),
    Bench("viewers", "What 1, 2, 4 and 8 viewers of a session cost, sharing an encode and alone.",
          "lipwire.benchmarks.live.viewers:run"),
    Bench("relip", "What relip() adds to a picture in Chromium, and how soon it is back.",
          "lipwire.benchmarks.live.relip:run"),
)  # fmt: skip
