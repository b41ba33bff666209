"""SDP taken apart and edited: what browsers and encoders might have offered instead."""

from __future__ import annotations

import re
from collections.abc import Callable

TRANSPORT = ("ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup", "candidate")


def sections(sdp: str) -> list[list[str]]:
    """Session lines, then those of each section."""
    found: list[list[str]] = [[]]
    for line in sdp.splitlines():
        if line.startswith("m="):
            found.append([])
        found[-1].append(line)
    return found


def joined(parts: list[list[str]]) -> str:
    return "\r\n".join(line for part in parts for line in part) + "\r\n"


def edited(number: int, edit: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    """Changes one section of an offer; 0 is what stands before the first."""

    def change(sdp: str) -> str:
        parts = sections(sdp)
        parts[number] = edit(parts[number])
        return joined(parts)

    return change


def without(lines: list[str], *names: str) -> list[str]:
    return [line for line in lines if not any(line.startswith(f"a={name}") for name in names)]


def port_0(lines: list[str]) -> list[str]:
    return [re.sub(r"^(m=\w+) \d+", r"\1 0", line) for line in lines]


def inactive(lines: list[str]) -> list[str]:
    return ["a=inactive" if line in ("a=sendonly", "a=recvonly") else line for line in lines]


def out_of_bundle(sdp: str, mid: str) -> str:
    return re.sub(r"(a=group:BUNDLE.*?) " + mid + r"\b", r"\1", sdp)


def bundle_only(lines: list[str]) -> list[str]:
    return [*without(port_0(lines), *TRANSPORT), "a=bundle-only"]


def mpeg4(lines: list[str]) -> list[str]:
    """A section of sound that offers AAC alone."""
    head = " ".join([*lines[0].split()[:3], "111"])
    return [head, *without(lines[1:], "rtpmap", "fmtp"), "a=rtpmap:111 mpeg4-generic/48000/2"]


def h264(parameters: str | None) -> Callable[[str], str]:
    """An offer of nothing but H.264 with these parameters."""

    def change(sdp: str) -> str:
        parts = sections(sdp)
        for part in parts[1:]:
            if not part[0].startswith("m=video"):
                continue
            head = part[0].split()[:3]
            kept = without(part[1:], "rtpmap", "fmtp", "rtcp-fb")
            part[:] = [" ".join([*head, "102"]), *kept, "a=rtpmap:102 H264/90000"]
            part += [f"a=fmtp:102 {parameters}"] if parameters else []
        return joined(parts)

    return change


def codec(name: str) -> Callable[[str], str]:
    return lambda sdp: h264(None)(sdp).replace("H264/90000", f"{name}/90000")


def add(*lines: str, to: int = 1) -> Callable[[str], str]:
    return edited(to, lambda part: [*part, *lines])
