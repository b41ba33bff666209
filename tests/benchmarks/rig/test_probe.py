"""Numbers in pictures survive the codecs; figures count what is missing; weather is as asked."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import depayload
from aiortc.jitterbuffer import JitterFrame

from lipwire.benchmarks.rig.network import Impairment, NetworkEmulator, without_candidates
from lipwire.benchmarks.rig.probe import Probe, read_number, test_card, write_number
from lipwire.server.rtc.codecs import make_encoder
from lipwire.server.rtc.decoders import make_decoder

test_card.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["VP8", "H264"])
def test_numbers_survive_a_codec(name: str) -> None:
    codec = RTCRtpCodecParameters(f"video/{name}", 90_000, payloadType=97)
    encoder, decoder = make_encoder(codec), make_decoder(codec, 640 * 480)
    for index, number in enumerate([0, 1, 4095, 77_777, 2**20 - 1]):
        image = test_card()[index].copy()
        write_number(image, number)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index * 3600, Fraction(1, 90_000)
        payloads, stamp = encoder.encode(frame)
        data = b"".join(depayload(codec, payload) for payload in payloads)
        (shown,) = decoder.decode(JitterFrame(data, stamp))
        assert read_number(shown.to_ndarray(format="gray")) == number  # type: ignore[attr-defined]
        half = frame.reformat(width=frame.width // 2, height=frame.height // 2, format="gray")
        assert read_number(half.to_ndarray()) == number


def test_what_is_no_number_is_not_read_as_one() -> None:
    assert read_number(np.full((480, 640), 128, np.uint8)) is None
    assert read_number(np.zeros((8, 8), np.uint8)) is None
    image = np.zeros((480, 640, 3), np.uint8)
    write_number(image, 5)
    image[:16, :16] = 0  # one bit turned: the parity tells
    assert read_number(image[:, :, 0]) is None


def test_figures_tell_freezes_losses_and_holes() -> None:
    probe = Probe("http://127.0.0.1:1", test_card())
    probe.camera.sent_s = [k * 0.04 for k in range(100)]
    back = [k for k in range(100) if not 40 <= k < 55]
    probe.pictures = [(k * 0.04 + 0.1, k) for k in back]
    probe.sounds = [(k * 0.02, k * 960) for k in range(200) if not 100 <= k < 104]
    figures = probe.figures(0.0, 4.2)
    assert figures["pictures_back"] == 85 and figures["freezes_over_500_ms"] == 1
    assert figures["freeze_max_ms"] == pytest.approx(640)
    assert figures["delay_p95_ms"] == pytest.approx(100)
    assert figures["sound_holes_over_60_ms"] == 1


def test_weather_loses_what_was_asked_for() -> None:
    weather = Impairment(loss=0.02, burst_loss=0.01, burst=5)
    lost = [weather.lose() for _ in range(50_000)]
    assert 0.024 < np.mean(lost) < 0.036
    runs = "".join("x" if is_lost else " " for is_lost in lost).split()
    assert sum(len(run) >= 5 for run in runs) > 50


def test_the_relay_stands_in_for_the_server() -> None:
    offer = "v=0\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\na=end-of-candidates\r\nm=x\r\n"
    assert without_candidates(offer) == "v=0\r\nm=x\r\n"

    class Front:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            return "127.0.0.1", 4242

    relay = NetworkEmulator()
    relay._front = Front()  # type: ignore[assignment]
    answer = relay.reroute("a=candidate:1 1 udp 1 127.0.0.1 999 typ host\r\n")
    assert answer == "a=candidate:1 1 udp 1 127.0.0.1 4242 typ host\r\n"
    assert relay._server == ("127.0.0.1", 999)
