"""Session descriptions without a connection: which offers we take, trickled pieces, our answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from aiortc.sdp import MediaDescription, SessionDescription

from lipwire.engine import EngineConfig, LipwireError
from lipwire.server.rtc.codecs import suggest_bitrate
from lipwire.server.rtc.ice import filter_candidates
from lipwire.server.rtc.plain_offer import PlainOffer, Unusable

MAX_SDP_BYTES = 64 * 1024  # browsers send 5 to 7 kB
MAX_SECTIONS = 8  # more than any purpose has; parsing costs the event loop
SENDS, RECEIVES = ("sendrecv", "sendonly"), ("sendrecv", "recvonly")


class OfferError(LipwireError, ValueError):
    """A description that cannot be read; the message says why."""


class OfferRefused(OfferError):
    """A description that can be read and that we do not answer; the message says why."""


class TooLarge(LipwireError, ValueError):
    """A description beyond MAX_SDP_BYTES."""


class Purpose(StrEnum):
    """What an offer is for."""

    CALL = "call"  # a browser's: picture and sound in and out
    INGEST = "ingest"  # WHIP: picture and original voice in
    VOICE = "voice"  # WHIP: the new voice in
    WATCH = "watch"  # WHEP: picture and sound out


# Sections of video and audio: least and most. The second audio of a call is the new voice.
SECTIONS: dict[Purpose, dict[str, tuple[int, int]]] = {
    Purpose.CALL: {"video": (1, 1), "audio": (0, 2)},
    Purpose.INGEST: {"video": (1, 1), "audio": (0, 1)},
    Purpose.VOICE: {"video": (0, 0), "audio": (1, 1)},
    Purpose.WATCH: {"video": (0, 1), "audio": (0, 1)},
}


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that has been looked at; make it with `read_offer`."""

    sdp: str  # as aiortc reads it, with unusable candidates taken out
    purpose: Purpose
    audio: int  # audio sections
    ufrag: str  # ICE user name
    candidates: int  # usable ones
    plain: PlainOffer  # puts the offer's own words back into the answer
    config: EngineConfig = field(default_factory=EngineConfig)


def read_offer(
    sdp: str,
    purpose: Purpose = Purpose.CALL,
    kind: str = "offer",
    config: EngineConfig | None = None,
    private: bool = True,
) -> Offer:
    """Check an offer before anything is built for it.

    Raises:
        TooLarge: beyond MAX_SDP_BYTES.
        OfferError: not an offer, or not SDP.
        OfferRefused: not one for this purpose.
    """
    if kind != "offer":
        raise OfferError(f"type is {kind!r}, must be 'offer'")
    if len(sdp.encode(errors="replace")) > MAX_SDP_BYTES:
        raise TooLarge(f"the offer is larger than {MAX_SDP_BYTES // 1024} kB")
    if not sdp.startswith("v=0"):
        raise OfferError("the body is not SDP: it does not begin with v=0")
    if len(re.findall(r"^m=", sdp, re.MULTILINE)) > MAX_SECTIONS:
        raise OfferRefused(f"the offer has more than {MAX_SECTIONS} sections")
    sends, needs_audio = purpose in (Purpose.CALL, Purpose.WATCH), purpose is Purpose.VOICE
    try:
        plain = PlainOffer(sdp, sends, needs_audio)
        _check_kinds(plain.kinds, purpose)
        # Filtered first: reading thousands of candidates would hold up every other call. Only WHIP
        # and WHEP have a way for more to come.
        sdp = filter_candidates(plain.write(), private, end=purpose is Purpose.CALL)
        media = SessionDescription.parse(sdp).media
    except OfferRefused:
        raise
    except Unusable as error:
        raise OfferRefused(str(error)) from error
    except Exception as error:  # the parser fails in many ways on what is not SDP
        raise OfferError("the body is not SDP that can be read") from error
    _check_directions(media, purpose)
    # All have the transport of the one that the offer bundles them on.
    dtls, ice = media[0].dtls, media[0].ice
    if ice is None or not ice.usernameFragment or not ice.password:
        raise OfferRefused("the offer has no ICE user name or password")
    if dtls is None or not dtls.fingerprints:
        raise OfferRefused("the offer has no DTLS fingerprint")
    if any(m.kind != "application" and not m.rtcp_mux for m in media):
        raise OfferRefused("the offer does not multiplex RTCP (a=rtcp-mux)")
    return Offer(
        sdp,
        purpose,
        sum(m.kind == "audio" for m in media),
        ice.usernameFragment,
        sdp.count("a=candidate:"),
        plain,
        config or EngineConfig(),
    )


def _check_kinds(kinds: list[str], purpose: Purpose) -> None:
    """Raise OfferRefused unless the kinds and numbers of sections fit."""
    for kind, (least, most) in SECTIONS[purpose].items():
        if not least <= kinds.count(kind) <= most:
            wanted = f"{most}" if least == most else f"{least} to {most}"
            raise OfferRefused(
                f"the offer has {kinds.count(kind)} {kind} sections, must have {wanted}"
            )
    if kinds.count("application") > 1:
        raise OfferRefused("the offer has more than one data section")
    if not {"video", "audio"} & set(kinds):
        raise OfferRefused("the offer has neither a video nor an audio section")


def _check_directions(media: list[MediaDescription], purpose: Purpose) -> None:
    """Raise OfferRefused unless what is sent and received fits."""
    played = [m for m in media if m.kind != "application"]
    if purpose is Purpose.CALL:
        video = next(m for m in media if m.kind == "video")
        if video.direction not in SENDS:
            raise OfferRefused("the offer sends no video: there is no face to work on")
        return
    fitting = RECEIVES if purpose is Purpose.WATCH else SENDS
    for section in played:
        if section.direction not in fitting:
            raise OfferRefused(
                f"a {section.kind} section is {section.direction}, must be {' or '.join(fitting)}"
            )
    streams = {m.msid.split()[0] for m in played if m.msid and m.msid.split()}
    if len(streams - {"-"}) > 1:
        raise OfferRefused("the offer has more than one MediaStream")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of a description with late candidates (RFC 8840); make it with `read_fragment`."""

    ufrag: str | None
    candidates: tuple[tuple[str | None, str], ...]  # section and candidate line
    end: bool  # nothing more will come


def read_fragment(text: str) -> Fragment:
    """Read `application/trickle-ice-sdpfrag`.

    Raises:
        TooLarge: beyond MAX_SDP_BYTES.
        OfferError: not made of SDP lines, or without any ICE in it.
    """
    if len(text.encode(errors="replace")) > MAX_SDP_BYTES:
        raise TooLarge(f"the fragment is larger than {MAX_SDP_BYTES // 1024} kB")
    ufrag: str | None = None
    mid: str | None = None
    candidates: list[tuple[str | None, str]] = []
    end = seen = False
    for line in text.splitlines():
        if not line:
            continue
        if not re.match(r"[a-z]=", line):
            raise OfferError("the body is not an SDP fragment: a line is not of the form x=...")
        name, _, value = line[2:].partition(":")
        if line[0] == "m":
            mid = None  # until its own a=mid comes
        elif name == "mid":
            mid = value.strip()
        elif name == "ice-ufrag":
            ufrag, seen = ufrag or value.strip(), True
        elif name == "candidate":
            seen = True
            candidates.append((mid, line))
        elif name == "end-of-candidates":
            end = seen = True
    if not seen:
        raise OfferError("the fragment has neither ICE credentials nor candidates")
    return Fragment(ufrag, tuple(candidates), end)


def finish_answer(sdp: str, start_kbps: int) -> str:
    """Our answer with what aiortc leaves out.

    `a=rtcp-mux-only` (RFC 8858), which WHIP and WHEP demand, and the bit rate to start with.
    """
    strict = sdp.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=rtcp-mux-only\r\n")
    return suggest_bitrate(strict, start_kbps)
