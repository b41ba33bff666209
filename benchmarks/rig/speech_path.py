"""The way of the voice in `bench latency`: from the caller's socket to the caller's ear.

A piece of the voice (a message) has a trace in the server until its place on the session's clock is
known; a block of sound (20 ms), from the time at which it is due. A block is of the piece that lies
at its place. Which block of the caller's is which of the server's, the clicks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipwire.benchmarks.harness.timing import percentiles
from lipwire.benchmarks.rig.client import BURST_S
from lipwire.engine.types import PLAYOUT_RATE_HZ

STAGES = {
    "network to the server": ("spoken", "received"),
    "wait for the decoder": ("received", "decoding"),
    "decode": ("decoding", "decoded"),
    "wait for room": ("decoded", "pushed"),
    "schedule": ("pushed", "scheduled"),
    "resample to 48 and 16 kHz": ("scheduled", "resampled"),
    "VAD": ("resampled", "judged"),
    "wait until it is due": ("judged", "due"),
    "mix, fetch": ("due", "popped"),
    "wait for the encoder": ("popped", "encoding"),
    "encode": ("encoding", "encoded"),
    "packetise, encrypt, send": ("encoded", "sent"),
    "network back, even out": ("sent", "received"),
    "client: wait for the decoder": ("received", "decoding"),
    "client: decode": ("decoding", "decoded"),
    "client: hand over": ("decoded", "heard"),
}  # every stage of the voice's way, in order, and the points between which it lies
BLOCK_S = 0.02
HEARD_WITHIN_S = 1.0  # after it was due; clicks are a second apart, so that none is mistaken
CODEC_LAG_S = 0.012  # a click comes out of Opus later than it went in, by up to so much
CLICK_STEP_S = 0.005  # in which clicks are looked for


@dataclass(frozen=True)
class Heard:
    """One block's way."""

    stages_s: dict[str, float]
    whole_s: float
    after_due_s: float  # from its time on the session's clock to the ear


def ways(noted: dict[str, Any]) -> list[Heard]:
    """Of every block of the voice that was due while it counted."""
    pieces = sorted(noted.get("voice", ()), key=lambda piece: float(piece["place"]))
    blocks = sorted(noted.get("sound", ()), key=lambda block: float(block["place"]))
    if not pieces or not blocks:
        return []
    offset = _offset(noted, pieces, blocks)
    if offset is None:
        return []
    home = {pts: (at_s, marks) for at_s, pts, marks in noted["sounds"]}
    spoken = dict(zip((piece["place"] for piece in pieces), noted["spoken"], strict=False))
    places = np.array([piece["place"] for piece in pieces])
    found = []
    for block in blocks:
        if not noted["since_s"] <= block["due"] < noted["until_s"]:
            continue
        at = int(np.searchsorted(places, block["place"], side="right")) - 1
        came = home.get(block["place"] + offset)
        if at < 0 or came is None or places[at] not in spoken:
            continue
        piece = pieces[at]
        if block["place"] - piece["place"] >= BURST_S * PLAYOUT_RATE_HZ:  # a pause follows it
            continue
        parts = (
            {**piece, "spoken": spoken[piece["place"]], "due": block["due"]},
            block,
            {**came[1], "heard": came[0], "sent": block["sent"]},
        )
        stages = _stages(parts)
        if len(stages) == len(STAGES):
            whole_s = came[0] - spoken[piece["place"]]
            found.append(Heard(stages, whole_s, came[0] - block["due"]))
    return found


def _stages(parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    stages: dict[str, float] = {}
    part = 0
    for name, (since, until) in STAGES.items():
        if since in ("due", "sent"):
            part += 1
        begins, ends = parts[part].get(since), parts[part].get(until)
        if begins is not None and ends is not None:
            stages[name] = ends - begins
    return stages


def _offset(
    noted: dict[str, Any], pieces: list[dict[str, Any]], blocks: list[dict[str, Any]]
) -> int | None:
    """What the caller's pts has more than the server's place, samples; None: no click was heard."""
    due_s = {block["place"]: block["due"] for block in blocks}
    epoch_s = float(np.median([at - place / PLAYOUT_RATE_HZ for place, at in due_s.items()]))
    # Clicks are at whole seconds of the voice, as is every so manieth piece.
    clicks = np.array([p["place"] for p in pieces[:: round(1 / BURST_S)]]) / PLAYOUT_RATE_HZ
    apart = []
    for place_s, came_s in noted["clicks"]:
        late_s = came_s - epoch_s - clicks
        near = np.flatnonzero((late_s > 0) & (late_s < HEARD_WITHIN_S))
        if len(near):
            apart.append(place_s - clicks[near[-1]])
    if not apart or not noted["sounds"]:
        return None
    # Of what can be, in steps of a block, the one a little below: Opus comes late.
    step = round(BLOCK_S * PLAYOUT_RATE_HZ)
    one = noted["sounds"][0][1] - blocks[0]["place"]
    wanted = (float(np.median(apart)) - (CODEC_LAG_S - CLICK_STEP_S) / 2) * PLAYOUT_RATE_HZ
    return int(one + round((wanted - one) / step) * step)


def table(found: Sequence[Heard]) -> list[dict[str, Any]]:
    """A row for each stage, and the whole; means add up."""
    rows: list[dict[str, Any]] = [
        {"stage": name, **percentiles([way.stages_s[name] for way in found])} for name in STAGES
    ]
    rows.append(
        {"stage": "mouth to ear", **percentiles([way.whole_s for way in found]), "sum": True}
    )
    return rows
