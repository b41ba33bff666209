"""What a server says and shows of itself while something is done to it."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lipwire.benchmarks.harness.machine import process_memory_mib

LAG = "lipwire_loop_lag_seconds_bucket"


@dataclass(frozen=True)
class Glance:
    """A server at one moment."""

    at_s: float
    resident_mib: float
    lag: dict[float, float]  # how often the event loop woke up at most so late, by seconds


def glance(url: str, pid: int) -> Glance:
    """Look at a server's memory and its event loop."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    lag = {
        float(bound): float(count)
        for bound, count in re.findall(LAG + r'{le="([^"]+)"} (\S+)', text)
    }
    return Glance(time.monotonic(), process_memory_mib(pid)["resident_mib"], lag)


def loop_figures(before: Glance, after: Glance) -> dict[str, float | int | None]:
    """How the event loop woke up between two looks.

    Percentile and longest are the upper ends of their buckets; None lies beyond the last.
    """
    counts = {bound: count - before.lag[bound] for bound, count in after.lag.items()}
    total = counts[float("inf")]

    def bucket(share: float) -> float | None:
        found = min((b for b, count in counts.items() if count >= share * total), default=0.0)
        return None if found == float("inf") else found * 1000

    return {
        "lag_p99_ms": bucket(0.99),
        "lag_max_ms": bucket(1.0),
        "stalls_over_50_ms": int(total - counts[0.05]),
    }


def udp_ports(pid: int) -> list[int]:
    """UDP ports that a process holds on IPv4 (Linux)."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
        inodes.update(re.findall(r"socket:\[(\d+)\]", target))
    lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [int(f[1].rpartition(":")[2], 16) for f in fields if f[9] in inodes]


def throw(packets: list[bytes], ports: list[int], per_s: float) -> int:
    """Send packets to ports of this machine, steadily; returns how many went out."""
    sent, begun = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for packet in packets:
            for port in ports:
                out.sendto(packet, ("127.0.0.1", port))
                sent += 1
            time.sleep(max(0.0, begun + sent / per_s - time.monotonic()))
    return sent
