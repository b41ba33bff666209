"""PlainOffer: any legal offer as aiortc can answer it, and its answer as the offer asked for it.

aiortc's parser fails on attributes that it does not know, its negotiation on profiles of H.264, and
its transports on sections that are rejected, that have no transport of their own (bundle-only) or
that BUNDLE names in another order. So it is shown the sections that are used, each with the
transport of the one that BUNDLE is tagged by (RFC 8843 section 7), and one profile; the answer gets
the rest back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

AUDIO = {"opus/48000", "g722/8000", "pcmu/8000", "pcma/8000"}
STATIC = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000"}  # RFC 3551 section 6
# Profiles of H.264 by their number (ITU-T H.264 annex A): Baseline, Main, Extended, High, and what
# FFmpeg decodes beyond: 10 bits, 4:2:2.
PROFILES = {0x42, 0x4D, 0x58, 0x64}
RECEIVED_PROFILES = PROFILES | {0x6E, 0x7A}
# The one that aiortc knows.
_KNOWN = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
_TRANSPORT = ("ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
# Attributes of a section that aiortc reads, and how it expects them.
_READ = {
    "mid": r"\S+",
    "msid": r".+",
    "rtcp-mux": "",
    "extmap": r"\d{1,3}(/\w+)? \S+.*",
    "ssrc": r"\d{1,10} [\w-]+:.*",
    "ssrc-group": r"[\w-]+( \d{1,10})+",
    "sctp-port": r"\d{1,5}",
    "sctpmap": r"\d{1,5} .+",
    "max-message-size": r"\d{1,12}",
    **dict.fromkeys(_DIRECTIONS, ""),
}
_REPAIR = {"rtx", "red", "ulpfec", "flexfec-03", "flexfec", "telephone-event", "cn"}
_FORBIDDEN = range(72, 77)  # payload types that RTCP would be taken for (RFC 5761 section 4)


class Unusable(ValueError):
    """Why an offer cannot be answered, in one line."""


@dataclass
class Section:
    """One m= section of an offer."""

    kind: str
    port: int
    protocol: str
    formats: list[str]
    lines: list[str]  # those after m=
    fmtp: dict[str, str] = field(default_factory=dict)
    """of H.264 by payload type, as the answer must say it"""

    def values(self, name: str) -> list[str]:
        """Of all attributes of this name; '' for those without."""
        found = []
        for line in self.lines:
            attribute, _, value = line[2:].partition(":")
            if line.startswith("a=") and attribute.strip() == name:
                found.append(value.strip())
        return found

    @property
    def mid(self) -> str | None:
        """Its name."""
        return next(iter(self.values("mid")), None)

    @property
    def direction(self) -> str | None:
        """As it says itself."""
        return next((d for d in _DIRECTIONS if self.values(d)), None)

    @property
    def refusal(self) -> list[str]:
        """What the answer says of it where it is not used (RFC 3264 section 6)."""
        kept = [f"m={self.kind} 0 {self.protocol} {' '.join(self.formats)}", "c=IN IP4 0.0.0.0"]
        return [*kept, *([f"a=mid:{self.mid}"] if self.mid else []), "a=inactive"]


class PlainOffer:
    """An offer in aiortc's words.

    Args:
        text: the session description; it begins with v=0.
        sends: whether we send what is agreed on; H.264 of `packetization-mode=0` cannot be sent.
        needs_audio: whether a section of sound without a codec of ours makes it useless.

    Raises:
        Unusable: there is no answer, and why.
    """

    def __init__(self, text: str, sends: bool = False, needs_audio: bool = False) -> None:
        self._sends = sends
        self._session, self._sections = _split(text)
        named = [value.split() for value in self._of_session("group")]
        groups = [words[1:] for words in named if words[:1] == ["BUNDLE"]]
        self._bundled = bool(groups)
        bundle = groups[0] if len(groups) == 1 else []
        default = next((d for d in _DIRECTIONS if self._of_session(d)), "sendrecv")
        self._used: list[Section] = []
        idle = []
        for section in self._sections:
            if section.direction is None:
                section.lines.append(f"a={default}")
            apart = bool(section.values("bundle-only")) and section.mid in bundle
            if section.port == 0 and not apart or not self._takes(section, needs_audio):
                continue
            if section.direction == "inactive" and section.kind != "application":
                idle.append(section)
                continue
            self._used.append(section)
        if self._used and not any(s.port for s in self._used):
            self._used += [s for s in idle if s.port and s.mid in bundle][:1]  # its transport
            self._used.sort(key=self._sections.index)
        self._bundle, self._ordered = bundle, list[Section]()

    @property
    def kinds(self) -> list[str]:
        """Of the sections that are used."""
        return [section.kind for section in self._used]

    def write(self) -> str:
        """The offer for aiortc.

        Raises:
            Unusable: its sections have no transport in common.
        """
        self._ordered = self._join(self._bundle)
        return self._write()

    def _of_session(self, name: str) -> list[str]:
        return Section("", 0, "", [], self._session).values(name)

    def _takes(self, section: Section, needs_audio: bool) -> bool:
        """Whether a section is of use; its codecs are cut down to ours."""
        if section.kind == "application":
            if "DTLS/SCTP" in section.protocol and section.protocol != "DTLS/SCTP":
                if not section.values("sctp-port"):
                    section.lines.append("a=sctp-port:5000")
            return section.protocol.endswith("DTLS/SCTP")
        if section.kind not in ("audio", "video") or "SAVP" not in section.protocol:
            return False
        offered = section.formats
        codecs = {pt: name for pt, name in STATIC.items() if pt in offered}
        for value in section.values("rtpmap"):
            if match := re.fullmatch(r"(\d{1,3})\s+(\S+)", value):
                codecs[match[1]] = match[2]
        params: dict[str, str] = {}
        for value in section.values("fmtp"):
            number, _, parameters = value.partition(" ")
            params[number] = parameters.strip()
        kept, lines = list[str](), list[str]()
        for pt in offered:
            name, rate = (codecs.get(pt, "/").split("/") + [""])[:2]
            line = self._codec(section, name.lower(), rate, pt, params.get(pt, ""), kept)
            if line is not None:
                kept.append(pt)
                lines += [f"a=rtpmap:{pt} {codecs[pt]}", *([line] if line else [])]
        known = {codec.split("/")[0] for codec in codecs.values()}
        names = sorted(name for name in known if name.lower() not in _REPAIR)
        if not kept:
            self._refuse(section, names, needs_audio)
            return False
        feedback = [
            f"a=rtcp-fb:{value}"
            for value in section.values("rtcp-fb")
            if len(value.split()) > 1 and value.split()[0] in ("*", *kept)
        ]
        section.lines = [
            line for line in section.lines if not re.match("a=(rtpmap|fmtp|rtcp-fb):", line)
        ]
        section.lines += lines + feedback
        section.formats = kept
        return True

    def _codec(
        self, section: Section, name: str, rate: str, pt: str, params: str, kept: list[str]
    ) -> str | None:
        """The fmtp line of a codec that is taken ('' for none); None: it is not taken."""
        if not pt.isdigit() or int(pt) in _FORBIDDEN or int(pt) > 127:
            return None
        if section.kind == "audio":
            return "" if f"{name}/{rate}" in AUDIO else None
        if rate != "90000":
            return None
        said = dict(part.strip().lower().partition("=")[::2] for part in params.split(";"))
        if name == "rtx":
            return f"a=fmtp:{pt} apt={said['apt']}" if said.get("apt") in kept else None
        if name == "vp8":
            return ""
        if name != "h264":
            return None
        profile, mode = said.get("profile-level-id", "42e01f"), said.get("packetization-mode", "0")
        if not re.fullmatch("[0-9a-f]{6}", profile) or mode not in ("0", "1")[self._sends :]:
            return None
        if int(profile[:2], 16) not in (PROFILES if self._sends else RECEIVED_PROFILES):
            return None
        section.fmtp[pt] = (
            f"level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"
        )
        return f"a=fmtp:{pt} {_KNOWN}"

    def _refuse(self, section: Section, names: list[str], needs_audio: bool) -> None:
        """Say why a section without a codec of ours makes the offer useless, if it does."""
        if section.port == 0 and not section.values("bundle-only"):
            return
        if section.kind == "video" and section.direction != "inactive":
            why = "this server takes VP8 and H.264 up to High profile"
            if self._sends and "H264" in {name.upper() for name in names}:
                why += ", and sends H.264 with packetization-mode=1 only"
            raise Unusable(f"the offer's video is {' or '.join(names) or 'of no codec'}: {why}")
        if section.kind == "audio" and needs_audio:
            raise Unusable(
                f"the offer's audio is {' or '.join(names) or 'of no codec'}: "
                "this server takes Opus, G.722, PCMU and PCMA"
            )

    def _join(self, bundle: list[str]) -> list[Section]:
        """The used sections in BUNDLE's order, the tagged one first; all get its transport."""
        used = self._used
        if not used:
            return []
        for number, section in enumerate(used):
            if section.mid is None and not self._bundled and len(used) == 1:
                section.lines.append(f"a=mid:{number}")
        mids = [section.mid for section in used]
        if len(set(mids)) < len(mids):
            raise Unusable("two sections of the offer have the same a=mid")
        if not self._bundled and len(used) == 1:
            ordered = used
        elif not set(mids) <= set(bundle):
            raise Unusable("the offer does not bundle all its sections on one transport")
        else:
            ordered = sorted(used, key=lambda s: bundle.index(s.mid or ""))
        tagged = next((s for s in ordered if s.port), None)
        if tagged is None:
            raise Unusable("no section that is in use has a transport: each has port 0")
        lines = []
        for name in _TRANSPORT:
            values = tagged.values(name) or self._of_session(name)
            lines += [f"a={name}:{value}" for value in values]
        # Those of other sections are of other transports, unless these say nothing of their own.
        users, candidates = set(tagged.values("ice-ufrag")), list[str]()
        for section in used:
            if section is tagged or set(section.values("ice-ufrag")) <= users:
                candidates += [f"a=candidate:{value}" for value in section.values("candidate")]
        muxed = bool(tagged.values("rtcp-mux"))
        for section in used:
            section.lines = [line for line in (_cleaned(line) for line in section.lines) if line]
            if muxed and not section.values("rtcp-mux") and section.kind != "application":
                section.lines.append("a=rtcp-mux")
            section.lines += lines
        used[0].lines += candidates
        return [tagged, *(s for s in ordered if s is not tagged)]

    def _write(self) -> str:
        head = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
        head += [f"a=msid-semantic:{value}" for value in self._of_session("msid-semantic") if value]
        if any(not value for value in self._of_session("ice-lite")):
            head.append("a=ice-lite")
        head.append("a=group:BUNDLE " + " ".join(section.mid or "" for section in self._used))
        for section in self._used:
            formats = " ".join(section.formats)
            head.append(f"m={section.kind} {section.port or 9} {section.protocol} {formats}")
            head += section.lines
        return "\r\n".join(head) + "\r\n"

    def complete(self, answer: str) -> str:
        """aiortc's answer with all sections of the offer, in its words and its order of BUNDLE."""
        session, answered = _split(answer)
        lines = []
        for line in session:
            if not line.startswith("a=group:BUNDLE"):
                lines.append(line)
            elif self._bundled:
                lines.append("a=group:BUNDLE " + " ".join(s.mid or "" for s in self._ordered))
        ours = dict(zip(map(id, self._used), answered, strict=True))
        for section in self._sections:
            if (mine := ours.get(id(section))) is None:
                lines += section.refusal
                continue
            lines.append(f"m={mine.kind} {mine.port} {mine.protocol} {' '.join(mine.formats)}")
            for line in mine.lines:
                pt = line.removeprefix("a=fmtp:").partition(" ")[0]
                if line.startswith("a=fmtp:") and pt in section.fmtp:
                    line = f"a=fmtp:{pt} {section.fmtp[pt]}"
                if not self._bundled and line.startswith("a=mid:"):
                    continue
                lines.append(line)
        return "\r\n".join(lines) + "\r\n"


def _split(text: str) -> tuple[list[str], list[Section]]:
    """Session lines, and sections."""
    session, sections = list[str](), list[Section]()
    for line in filter(None, text.splitlines()):
        if not re.match("[a-z]=", line):
            raise ValueError("a line is not of the form x=...")
        if line.startswith("m="):
            found = re.fullmatch(r"m=(\S+) (\d{1,5})(?:/\d+)? (\S+) (.+?)\s*", line)
            if found is None:
                raise ValueError("an m= line cannot be read")
            sections.append(Section(found[1], int(found[2]), found[3], found[4].split(), []))
        else:
            (sections[-1].lines if sections else session).append(line)
    return session, sections


def _cleaned(line: str) -> str | None:
    """A section's line as aiortc reads it; None for what it does not."""
    name, _, value = line[2:].partition(":")
    name, value = name.strip(), value.strip()
    if not line.startswith("a="):
        return None
    if name in ("rtpmap", "fmtp", "rtcp-fb"):
        return line.rstrip()
    if name not in _READ or not re.fullmatch(_READ[name], value):
        return None
    if name == "extmap":  # neither the direction nor attributes of the extension
        number, uri = value.split()[:2]
        value = f"{number.partition('/')[0]} {uri}"
    return f"a={name}:{value}" if value else f"a={name}"
