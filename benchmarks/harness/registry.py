"""What can be measured: every benchmark by name, one line each; nothing is imported before it runs.

A benchmark is a function `run(...) -> dict` (`benchmarks/harness/record.py` says what is in it).
Its parameters become options of `lipwire bench NAME`, with the texts of its docstring; one named
`progress` is told what is going on instead.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lipwire.engine.errors import ConfigError

TORCH = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark."""

    name: str
    help: str
    run: str  # module:function
    needs: tuple[str, ...] = ()  # packages that a plain installation lacks

    def load(self) -> Callable[..., dict[str, Any]]:
        """The function."""
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(
                f"`bench {self.name}` needs {', '.join(lacking)}, not installed here: "
                "pip install 'lipwire[train]'"
            )
        module, _, name = self.run.partition(":")
        found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        return found


def _of(module: str, *needs: str, **helps: str) -> Iterator[Bench]:
    """Those of a module, by its functions; one that is its only one has the module's name."""
    for function, help in helps.items():
        name = module.rpartition(".")[2] if len(helps) == 1 else function.replace("_", "-")
        yield Bench(name, help, f"lipwire.benchmarks.{module}:{function}", needs)


BENCHES = (
    *_of("live.latency", run="One call, glass to glass, and every stage's share of it."),
    *_of(
        "live.capacity", run="Sessions are added until it judders: how many this machine carries."
    ),
    *_of(
        "model.denoiser",
        *TORCH,
        run="Time and GFLOP/s of the networks beside this machine's own matrix product.",
    ),
    *_of("model.paper", *TORCH, run="The paper's headline: 25 steps, 200 frames of 128x128."),
    *_of(
        "model.simulate",
        command="Sessions against devices in virtual time: missed deadlines, and the least.",
    ),
    *_of(
        "model.fleet", run="1 to 1,000 nodes and their audience in virtual time: what breaks first."
    ),
    *_of(
        "live.transport",
        loss="R5: a call over a path that loses packets: freezes, holes in the sound.",
        delay="R11: what a call adds to a picture, passed through and painted.",
        soak="R1: calls that last: pictures, sound, the server's memory.",
    ),
    *_of(
        "live.overload",
        run="A device that is slowed in the middle of a call: pictures, sound, way back.",
    ),
    *_of("live.churn", churn="R2: calls that come and go, a third of them killed: what is left."),
    *_of(
        "model.quality", run="What viewers see: blending, jitter, silence, interruption, tracking."
    ),
    *_of("live.sync", run="R10: lips against sound at the receiver."),
    *_of(
        "live.hostile",
        run="R7, R13: bombs, floods, noise; the server, its memory, a bystander's call.",
    ),
    *_of(
        "live.outage",
        overload_admission="R6: twice as many calls as a server takes: refused, admitted.",
        vanish="R3, R4: who never connects, and who is killed: how long each is kept.",
        fault="R8: a model that raises, hangs and runs out of memory during a call.",
        drain="R9: SIGTERM while calls run.",
    ),
    *_of("live.codecs", run="What the video codecs cost on this machine, and how they look."),
    *_of(
        "live.viewers",
        run="What 1, 2, 4 and 8 viewers of a session cost, sharing an encode and alone.",
    ),
    *_of("live.relip", run="What relip() adds to a picture in Chromium, and how soon it is back."),
)
