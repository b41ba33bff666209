"""AudioConditioner: the mouth speaks when the voice is heard, and at no other time."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import voiced
from sessions import DELAY_S, PICTURES, frame, make, paint, pop_all, run, work

from lipwire.engine.audio.mel import LOOKAHEAD_S, SILENCE, log_mel, window, window_start_at
from lipwire.engine.audio.timeline import MOMENT, SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError
from lipwire.engine.session.conditioning import AudioConditioner
from lipwire.engine.types import JobSpec, LipJob, Outcome, OutputFrame


def conditioner(**config: object) -> tuple[AudioConditioner, float]:
    """One for a second of voice, and when that is heard."""
    settings = EngineConfig(**config)  # type: ignore[arg-type]
    speech = SpeechTimeline(settings, LOOKAHEAD_S)
    return AudioConditioner(speech, settings), speech.push(voiced(1.0), 16_000, 0.0, False)


def test_a_cue_says_how_much_of_the_mouth_is_shown() -> None:
    prompts, start_s = conditioner(fade_s=0.16)
    assert not prompts.speaks(start_s - 0.25) and prompts.speaks(start_s + 0.5)
    times = np.arange(0, start_s + 1.0, 0.04)
    cues = [prompts.condition(time_s, 24) for time_s in times]
    assert all(
        conditioning.mel.shape == (80, 24) and conditioning.cut_s is None for conditioning in cues
    )
    strengths = np.array([conditioning.strength for conditioning in cues])
    assert not strengths[times < start_s - 0.2].any()
    rising = strengths[(strengths > 0) & (strengths < 1)]
    assert rising == pytest.approx([0.25, 0.5, 0.75])
    assert strengths[-1] == 1
    prompts.lose()
    assert prompts.condition(times[-1] + 0.04, 24).strength == pytest.approx(0.25)


def test_an_interruption_is_in_the_next_cue() -> None:
    prompts, start_s = conditioner(fade_s=0.0)
    assert prompts.condition(start_s + 0.5, 16).cut_s is None
    prompts.interrupt(start_s + 0.51)
    assert prompts.condition(start_s + 0.54, 16).cut_s == start_s + 0.51


def test_where_silence_is_generated_a_mouth_is_always_wanted() -> None:
    prompts, start_s = conditioner(silence="generate", fade_s=0.0)
    assert prompts.speaks(start_s - 1.0)
    conditioning = prompts.condition(start_s - 1.0, 16)
    assert conditioning.strength == 1 and np.all(conditioning.mel == SILENCE)
    lasting = prompts.condition(start_s - 0.96, 16, ahead=4).ahead
    assert len(lasting) == 4 and all(np.all(mel == SILENCE) for mel in lasting)
    prompts.silence = "original"
    assert not prompts.speaks(start_s - 0.9)
    assert prompts.condition(start_s - 0.9, 16).strength < 1


def test_the_mouth_speaks_while_the_voice_is_heard_and_fades_at_both_ends() -> None:
    session = make(EngineConfig(fade_s=0.16))
    heard_s = session.push_speech(voiced(1.0), 16_000, 0.0)
    out = run(session, 75)
    spoken = [f for f in out if f.outcome is Outcome.GENERATED]
    assert {f.outcome for f in out} == {Outcome.GENERATED, Outcome.SILENT}
    first, last = spoken[0].playout_s, spoken[-1].playout_s
    assert heard_s - 0.2 <= first <= heard_s
    assert heard_s + 1.0 <= last <= heard_s + 1.0 + 0.8
    assert [f.index for f in spoken] == list(range(spoken[0].index, spoken[-1].index + 1))

    def change(f: OutputFrame) -> float:
        return float(np.abs(f.image.astype(int) - frame(f.index).image).sum())

    # Every fourth picture is the same one, so that these differ by their strength alone.
    assert change(spoken[0]) < 0.4 * change(spoken[4]) < change(spoken[8])
    assert change(spoken[-1]) < 0.4 * change(spoken[-5]) < change(spoken[-9])
    assert change(spoken[8]) == pytest.approx(change(spoken[12]), rel=0.05)


@pytest.mark.parametrize("columns", [16, 24])
def test_the_frame_shown_at_a_time_hears_what_is_heard_at_that_time(columns: int) -> None:
    """More columns than the paper's are more past."""
    session = make(spec=JobSpec(mel_columns=columns))
    samples = np.concatenate([voiced(1.0), np.zeros(16_000, np.int16)])
    start_s = session.push_speech(samples, 16_000, 0.0)
    place = np.zeros(48_000, np.int16)
    start = round(start_s * 16_000)
    place[start : start + len(samples)] = samples
    mel = log_mel(place.astype(np.float32) / 32768)
    sound = []
    for index in range(40):
        now = index / 25
        session.push_video(frame(index), now)
        job = session.jobs.begin(now)
        assert job is not None
        # How long it stands is known from the second picture on.
        moment_s = now + DELAY_S + (MOMENT * 0.04 if index else 0.0)
        wanted = window(mel, window_start_at(moment_s, columns), columns)
        assert np.abs(job.mel - wanted).max() < 1e-4
        paper = window(mel, window_start_at(moment_s))
        assert np.array_equal(wanted[:, -16:], paper)
        while (chunk := session.pop_audio(now)) is not None:
            sound.append(chunk)
    assert [chunk.start for chunk in sound] == [960 * i for i in range(len(sound))]
    heard = np.concatenate([chunk.samples for chunk in sound])
    onset_s = np.flatnonzero(np.abs(heard.astype(int)) > 50)[0] / 48_000
    assert onset_s == pytest.approx(start_s, abs=0.001)


def test_silence_can_be_shown_as_a_shut_mouth_and_back_while_it_runs() -> None:
    session = make(EngineConfig(fade_s=0.08))

    def outcomes(first: int, silence: str) -> list[Outcome]:
        session.set_silence(silence)  # type: ignore[arg-type]
        seen = []
        for index in range(first, first + 10):
            session.push_video(frame(index), index / 25)
            work(session, index / 25)
            seen += [f.outcome for f in pop_all(session, index / 25 + 0.039)]
        return seen[-5:]

    assert set(outcomes(0, "original")) == {Outcome.SILENT}
    assert set(outcomes(10, "generate")) == {Outcome.GENERATED}
    assert set(outcomes(20, "original")) == {Outcome.SILENT}
    with pytest.raises(ConfigError, match="silence is 'open'"):
        session.set_silence("open")  # type: ignore[arg-type]


def test_a_shut_mouth_does_not_hear_noise() -> None:
    """Breath, hiss and tones in the voice's pauses reach the ears, not the model."""
    rng = np.random.default_rng(0)
    session = make(EngineConfig(silence="generate"))
    noise = np.concatenate([np.zeros(8_000), rng.normal(0, 300, 40_000)]).astype(np.int16)
    session.push_speech(noise, 16_000, 0.0)
    for index in range(60):
        session.push_video(frame(index), index / 25)
        job = session.jobs.begin(index / 25)
        assert job is not None
        if index > 35:  # a voice detector needs a moment to know the noise
            assert np.all(job.mel == SILENCE)
    assert session.read_audio(96_000).samples.any()


@pytest.mark.parametrize("fps", [10, 24, 60])
def test_the_end_of_speech_does_not_leave_the_mouth_open(fps: int) -> None:
    session = make(EngineConfig())
    start_s = session.push_speech(voiced(0.7), 16_000, 0.0)
    end_s, shown = start_s + 0.7, []
    for index in range(3 * fps):
        session.push_video(frame(index), index / fps)
        work(session, index / fps)
        shown += pop_all(session, (index + 0.9) / fps)
    last = max(f.playout_s for f in shown if f.outcome is Outcome.GENERATED)
    assert end_s < last < end_s + 0.3 + 0.05 + 0.16 + 3 / fps


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("at_s", [1.0, 1.013, 1.031])
def test_after_an_interruption_no_mouth_moves_later_than_100_ms(fps: int, at_s: float) -> None:
    for silence in ("original", "generate"):
        session = make(EngineConfig(silence=silence))  # type: ignore[arg-type]
        session.push_speech(voiced(5.0), 16_000, 0.0)
        interrupted = False
        for index in range(2 * fps):
            now = index / fps
            if now >= at_s and not interrupted:
                session.interrupt_speech(at_s)
                interrupted = True
            while session.pop_audio(now) is not None:
                pass
            session.push_video(frame(index), now)
            job = session.jobs.begin(now)
            moves = job is not None and (silence == "original" or bool((job.mel > SILENCE).any()))
            playout_s = now + session.config.delay_s
            # A picture may take the place of one that was shown within the time.
            if playout_s > at_s + 0.1 + 1 / fps:
                assert not moves, f"{silence}: at {playout_s - at_s:.3f} s"
            elif 0.6 < playout_s < at_s:
                assert moves


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("at_s", [1.0, 1.013, 1.031])
@pytest.mark.parametrize("delay_s", [0.06, 0.3])
def test_no_picture_shows_an_interrupted_mouth_after_100_ms(
    fps: int, at_s: float, delay_s: float
) -> None:
    """Nor do those that had been painted before the interruption and waited for their time."""
    session = make(EngineConfig(delay_s=delay_s))
    session.push_speech(voiced(5.0), 16_000, 0.0)
    shown: list[OutputFrame] = []
    late: list[LipJob] = []
    interrupted = False
    for tick in range(2 * 120):
        now = tick / 120
        if now >= at_s and not interrupted:
            session.interrupt_speech(at_s)
            interrupted = True
        if tick % (120 // fps) == 0:
            session.push_video(frame(tick), now)
            job = session.jobs.begin(now)
            if job is not None:
                late.append(job)
        while len(late) > 1:  # a device that takes its time
            job = late.pop(0)
            session.jobs.complete(job, paint(job), now)
        shown += pop_all(session, now)
    before = [out for out in shown if 0.65 < out.playout_s < at_s - 0.1]
    assert before and all(out.outcome is Outcome.GENERATED for out in before)
    for out in shown:
        differs = bool((out.image != PICTURES[out.pts % 4]).any())
        if out.playout_s > at_s + 0.06:
            assert not differs and out.outcome is not Outcome.GENERATED


@pytest.mark.parametrize(
    ("piece_s", "every_s", "wanted_s"),
    [
        pytest.param(1.0, 0.0, 0.12, id="synthesis that is done"),
        # The voice is heard after the look-ahead and its margin; its mouth opens 0.1 s before.
        pytest.param(0.02, 0.02, 0.30, id="a voice as it is spoken"),
    ],
)
def test_the_first_word_is_seen_soon(piece_s: float, every_s: float, wanted_s: float) -> None:
    """From a voice's first sample to the first picture that leaves with a mouth."""
    waits = []
    for phase_s in (0.001, 0.011, 0.021, 0.031):  # between two pictures
        session = make(EngineConfig())
        begins_s, pushed, seen_s = 0.6 + phase_s, 0, None
        voice = voiced(1.0, 16_000)
        size = round(piece_s * 16_000)
        for step in range(1100):  # milliseconds
            now = step / 1000
            while pushed < len(voice) and now >= begins_s + pushed / size * every_s:
                session.push_speech(voice[pushed : pushed + size], 16_000, now)
                pushed += size
            if step % 40 == 0:
                session.push_video(frame(step // 40), now)
                work(session, now)
            session.pop_audio(now)
            if seen_s is None and any(
                f.outcome is Outcome.GENERATED for f in pop_all(session, now)
            ):
                seen_s = now
        assert seen_s is not None
        waits.append(seen_s - begins_s)
    assert max(waits) <= wanted_s
    assert float(np.median(waits)) <= 0.25
