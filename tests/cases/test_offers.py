"""Any legal offer is answered; what is not answered says why."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import httpx
import imageio_ffmpeg
import numpy as np
import pytest
from aiortc import RTCSessionDescription
from calls import Camera, Running, until
from offers import (
    TRANSPORT,
    add,
    bundle_only,
    codec,
    edited,
    h264,
    inactive,
    joined,
    mpeg4,
    out_of_bundle,
    port_0,
    sections,
    without,
)
from whip_client import IS_SDP, Client, watching

from lipwire.server.rtc.bitstream import h264_key_size
from lipwire.server.rtc.sdp import OfferError, Purpose, read_offer

LEGAL: dict[str, Callable[[str], str]] = {
    # C51
    "bundle-only": edited(2, bundle_only),
    "bundle-only as Firefox writes it": edited(2, lambda p: [*port_0(p), "a=bundle-only"]),
    "transport in the session": lambda sdp: joined(
        [
            sections(sdp)[0]
            + [
                line
                for line in sections(sdp)[1]
                if line.startswith(tuple(f"a={name}" for name in TRANSPORT[:-1]))
            ],
            *(without(part, *TRANSPORT[:-1]) for part in sections(sdp)[1:]),
        ]
    ),
    # C54
    "extmap with attributes": add("a=extmap:14 urn:ietf:params:rtp-hdrext:ssrc-audio-level vad=on"),
    "extmap with a direction": add("a=extmap:13/recvonly urn:3gpp:video-orientation"),
    "fmtp without rtpmap": add("a=fmtp:126 0-15"),
    "ssrc without a value": add("a=ssrc:1234 cname"),
    "ssrc without anything": add("a=ssrc:1234"),
    "unknown attributes": add(
        "a=x-what",
        "a=msid-semantic",
        "a=rid:1 send",
        "a=simulcast:send 1",
        "a=ts-refclk:local",
        "a=rtcp:9 IN IP4 host.local",
        "b=AS:500",
        "i=a camera",
        "c=IN IP4 host.local",
        "k=prompt",
        "a=fmtp:",
        "a=rtcp-fb:",
    ),
    "unknown attributes of the session": add(
        "a=extmap-allow-mixed", "a=tool:x", "a=group:LS 0 1", "b=CT:900", "a=identity:x", to=0
    ),
    "odd numbers": add(
        "a=ssrc-group:FID",
        "a=ssrc-group:FID a b",
        "a=max-message-size:x",
        "a=rtpmap:200 X/1",
        "a=rtpmap:x",
        "a=rtpmap:99",
    ),
    "lines that end in LF": lambda sdp: sdp.replace("\r\n", "\n"),
    "static payload without rtpmap": edited(
        2, lambda p: [" ".join([*p[0].split()[:3], "0"]), *without(p[1:], "rtpmap", "fmtp")]
    ),
    # C60: the audio section is the second one
    "rejected audio": lambda sdp: out_of_bundle(edited(2, port_0)(sdp), "1"),
    "rejected audio without mid": lambda sdp: out_of_bundle(
        edited(2, lambda p: without(inactive(port_0(p)), "mid", *TRANSPORT))(sdp), "1"
    ),
    "inactive audio in the bundle": edited(2, inactive),
    "audio of unknown codecs": edited(2, mpeg4),
    "a section of another kind": lambda sdp: sdp + "m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:9\r\n",
    # C61
    "BUNDLE in another order": lambda sdp: sdp.replace("BUNDLE 0 1", "BUNDLE 1 0"),
    "BUNDLE in another order, its own transport": lambda sdp: edited(
        1, lambda p: without(p, *TRANSPORT)
    )(sdp.replace("BUNDLE 0 1", "BUNDLE 1 0")),
    "rejected audio is what BUNDLE names first": edited(2, lambda p: inactive(p)),
    # C52: any profile and level, both modes
    **{
        f"H.264 {level} mode {mode}": h264(f"profile-level-id={level};packetization-mode={mode}")
        for level in "640029 4d0028 640c1f 640034 58a01f 42e034 64003C 6e0028".split()
        for mode in (0, 1)
    },
    "H.264 without parameters": h264(None),
    "H.264 with blanks": h264("packetization-mode=1; profile-level-id=640029 ; x=Z0I="),
}
FOR_VIEWERS = [
    name
    for name in LEGAL
    if not ("mode 0" in name or "6e0028" in name or name == "H.264 without parameters")
]


def offer_of(purpose: Purpose) -> Client:
    client = Client(httpx.AsyncClient())
    return client.watch() if purpose is Purpose.WATCH else client.publish()


@pytest.mark.parametrize("name", sorted(LEGAL))
async def test_a_legal_offer_is_answered_in_its_own_words(name: str) -> None:
    for purpose in (Purpose.INGEST, Purpose.WATCH):
        if purpose is Purpose.WATCH and name not in FOR_VIEWERS:
            continue
        async with offer_of(purpose) as client:
            sdp = LEGAL[name](await client.offer())
            offer = read_offer(sdp, purpose)
            await client.http.aclose()
        offered, groups = sections(sdp)[1:], re.findall("a=group:BUNDLE (.*)", sdp)
        assert offer.ufrag and offer.candidates
        # What aiortc answers is what it is offered, for this.
        answered = sections(offer.plain.complete(offer.sdp))
        assert len(answered) - 1 == len(offered)
        for theirs, ours in zip(offered, answered[1:], strict=True):
            assert ours[0].split()[0] == theirs[0].split()[0]
            assert set(ours[0].split()[3:]) <= set(theirs[0].split()[3:])
            mid = [line for line in theirs if line.startswith("a=mid:")]
            assert [line for line in ours if line.startswith("a=mid:")] == mid
            if "profile-level-id=" in joined([theirs]):
                wanted = re.findall("profile-level-id=(\\w+)", joined([theirs]))
                got = re.findall("profile-level-id=(\\w+)", joined([ours]))
                assert {p.lower() for p in got} <= {p.lower() for p in wanted}
        bundle = re.findall("a=group:BUNDLE (.*)", joined(answered))
        active = [part for part in answered[1:] if part[0].split()[1] != "0"]
        assert [line.split() for line in bundle] == [
            [mid for mid in line.split() if f"a=mid:{mid}" in joined(active)] for line in groups
        ]


CONNECTED = (
    "bundle-only",
    "unknown attributes",
    "inactive audio in the bundle",
    "BUNDLE in another order, its own transport",
    "H.264 640029 mode 1",
    "H.264 4d0028 mode 0",
)


@pytest.mark.parametrize("name", CONNECTED)
async def test_a_legal_offer_connects(name: str, client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as publisher:
        own = await publisher.offer()
        answer = await client.post("/whip?consent=true", content=LEGAL[name](own), headers=IS_SDP)
        assert answer.status_code == 201, answer.text
        publisher.location = answer.headers["location"]
        await publisher.pc.setRemoteDescription(
            RTCSessionDescription(as_aiortc(answer.text), "answer")
        )
        await until(lambda: publisher.pc.connectionState == "connected", "the publisher connects")
        if name.startswith("H.264"):
            return  # aiortc sends baseline, whatever it has agreed on
        async with await watching(publisher) as viewer:
            await until(lambda: len(viewer.pictures) > 3, "pictures", 20)


def as_aiortc(answer: str) -> str:
    """The answer as aiortc's client takes it: it knows neither rejected sections nor profiles."""
    parts = sections(answer)
    alive = next(part for part in parts[1:] if part[0].split()[1] != "0")
    transport = [line for line in alive if line.startswith(tuple(f"a={n}" for n in TRANSPORT))]
    for part in parts[1:]:
        if part[0].split()[1] == "0":
            mid = [line for line in part if line.startswith("a=mid")]
            number = part[0].split()[3]
            part[:] = [
                part[0].replace(" 0 ", " 9 ", 1),
                *mid,
                f"a=rtpmap:{number} opus/48000/2",
                "a=inactive",
                "a=rtcp-mux",
                *transport,
            ]
    group = f"a=group:BUNDLE {' '.join(str(k) for k in range(len(parts) - 1))}"
    parts[0] = [group if line.startswith("a=group") else line for line in parts[0]]
    text = re.sub(
        "packetization-mode=.;profile-level-id=\\w+",
        "packetization-mode=1;profile-level-id=42e01f",
        joined(parts),
    )
    return text


# --- what is refused says why ---


ILLEGAL: dict[str, tuple[Purpose, Callable[[str], str], str]] = {
    "H265": (Purpose.INGEST, codec("H265"), "H265.*takes VP8 and H.264"),
    "AV1": (Purpose.INGEST, codec("AV1"), "AV1"),
    "VP9 to a viewer": (Purpose.WATCH, codec("VP9"), "VP9"),
    "interleaved H.264": (Purpose.INGEST, h264("packetization-mode=2"), "H264"),
    "mode 0 to a viewer": (Purpose.WATCH, h264("profile-level-id=42e01f"), "packetization-mode=1"),
    "H.264 of 4:4:4": (Purpose.INGEST, h264("profile-level-id=f4001f"), "High profile"),
    "all sections rejected": (
        Purpose.INGEST,
        lambda s: edited(1, port_0)(edited(2, port_0)(s)),
        "0 video",
    ),
    "a voice of AAC": (Purpose.VOICE, edited(1, mpeg4), "mpeg4-generic.*Opus"),
    "no transport": (Purpose.INGEST, lambda s: re.sub("a=ice-(ufrag|pwd).*\r\n", "", s), "ICE"),
    "not bundled": (Purpose.INGEST, lambda s: s.replace("a=group:BUNDLE 0 1\r\n", ""), "bundle"),
}


@pytest.mark.parametrize("name", sorted(ILLEGAL))
async def test_what_cannot_be_answered_is_named(name: str) -> None:
    purpose, change, says = ILLEGAL[name]
    client = Client(httpx.AsyncClient())
    {Purpose.VOICE: lambda: client.speak(400)}.get(
        purpose, client.watch if purpose is Purpose.WATCH else client.publish
    )()
    async with client:
        with pytest.raises(OfferError) as caught:
            read_offer(change(await client.offer()), purpose)
        await client.http.aclose()
    assert re.search(says, str(caught.value)) and "\n" not in str(caught.value)


# --- FFmpeg with libx264's own default profile ---


@pytest.mark.parametrize("profile", [(), ("-profile:v", "main")], ids=["default", "main"])
def test_ffmpegs_default_profile_is_published_and_seen(
    server: Running, profile: tuple[str, ...]
) -> None:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *"-hide_banner -re -f lavfi -i testsrc=size=320x240:rate=25 -t 20".split(),
        *"-c:v libx264 -preset veryfast".split(),
        *profile,
        *"-bf 0 -g 25 -pix_fmt yuv420p -f whip".split(),
        f"{server.url}/whip?consent=true",
    ]
    publishing = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:

        def pictures() -> int:
            listed = httpx.get(server.url + "/api/sessions").json()
            found = listed.get("sessions", listed) if isinstance(listed, dict) else listed
            for one in found:
                stats = httpx.get(f"{server.url}/api/sessions/{one['id']}/stats").json()
                return int(stats["frames_in"])
            return 0

        async def seen() -> None:
            await until(
                lambda: publishing.poll() is not None or pictures() > 10, "pictures come in"
            )

        asyncio.run(seen())
        assert publishing.poll() is None, publishing.communicate()[0].decode()
    finally:
        publishing.kill()
        publishing.communicate()


# --- the size of pictures ---


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080), (2560, 1440), (176, 144)])
@pytest.mark.parametrize(
    "options",
    [
        {"profile": "baseline"},
        {"profile": "high"},
        {"profile": "high", "x264-params": "interlaced=1:cqm=jvt"},
        {"profile": "high444"},
    ],
    ids=str,
)
def test_sizes_are_read_from_h264_before_it_is_decoded(
    size: tuple[int, int], options: dict[str, str]
) -> None:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height = size
    codec.pix_fmt = "yuv444p" if options["profile"] == "high444" else "yuv420p"
    codec.time_base = Fraction(1, 25)
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", **options}
    frame = av.VideoFrame(*size, codec.pix_fmt)
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    height = 32 if "x264-params" in options else 16
    assert h264_key_size(data) == (-(-size[0] // 16) * 16, -(-size[1] // height) * height)
    assert h264_key_size(data[:6]) is None and h264_key_size(b"") is None


async def stats_of(client: httpx.AsyncClient, publisher: Client) -> dict[str, Any]:
    return dict((await client.get(f"/api/sessions/{publisher.session}/stats")).json())


@pytest.mark.parametrize(
    ("size", "taken"),
    [((1080, 1920), (720, 1280)), ((1920, 1080), (1280, 720)), ((1000, 1000), (960, 960))],
)
async def test_1080p_is_taken_and_scaled(
    client: httpx.AsyncClient, size: tuple[int, int], taken: tuple[int, int]
) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    async with Client(client).publish(Camera(image, fps=5)) as publisher:
        assert (await publisher.post("/whip?consent=true")).status_code == 201
        async with await watching(publisher) as viewer:
            await until(lambda: bool(viewer.pictures), "a picture", 30)
            assert viewer.pictures[-1].shape[:2] == taken
        stats = await stats_of(client, publisher)
        assert stats["frames_in"] > 0
        assert stats["pictures"] == {
            "size": f"{size[1]}x{size[0]}",
            "scaled_to": f"{taken[1]}x{taken[0]}",
            "refused": 0,
            "reason": None,
        }


async def test_what_is_larger_is_refused_where_its_publisher_sees_it(
    client: httpx.AsyncClient,
) -> None:
    image = np.full((1600, 2560, 3), 90, np.uint8)
    async with Client(client).publish(Camera(image, fps=5)) as publisher:
        told: list[str] = []
        publisher.pc.createDataChannel("lipwire").on("message", told.append)
        assert (await publisher.post("/whip?consent=true")).status_code == 201
        reason = "pictures of 2560x1600 pixels are larger than 1920x1088"
        for _ in range(300):
            stats = await stats_of(client, publisher)
            if stats["pictures"]["refused"]:
                break
            await asyncio.sleep(0.1)
        assert stats["frames_in"] == 0 and stats["pictures"]["reason"] == reason
        await until(lambda: any(reason in text for text in told), "the publisher is told")
        metrics = (await client.get("/metrics")).text
        assert re.search(r"lipwire_pictures_refused_total{reason=.size.} [1-9]", metrics)
