"""Sound on a session's clock: where each sample plays, and what is heard at any time.

Sample i of a line plays at i / rate seconds after the session began. Speech that arrives is given
a place far enough ahead that every mel window it belongs to can still be filled; what was pushed
without a pause stays without a pause.
"""

from __future__ import annotations

import math

import numpy as np

from lipwire.engine.audio.drift import DriftEstimator, DriftResampler, PauseTrimmer
from lipwire.engine.audio.mel import HALF, HOP, WINDOW_COLUMNS, MelStream, window_start_at
from lipwire.engine.audio.pace import Pace
from lipwire.engine.audio.sample_timeline import (
    FADE_OUT_S,
    PlayoutBuffer,
    SampleTimeline,
    resampler_lag_s,
)
from lipwire.engine.audio.vad import FRAME, ONSET_S, VoiceActivity
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import BacklogFull, MediaError
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import F32, I16, PLAYOUT_RATE_HZ, SPEECH_RATE_HZ

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
RATIO, _remainder = divmod(PLAYOUT_RATE_HZ, SPEECH_RATE_HZ)
assert _remainder == 0
# A voice that comes by a clock and is so much later than it should be, after a stall and a burst,
# loses some of its pauses. Less: usual jitter eats them; more: it stays late for longer.
LATE_S = 0.15
# A voice that is not said to be live and sends nothing for so long has ended. Longer: a burst of
# synthesis after a pause is taken for what a stall held up, and loses pauses.
GONE_S = 3.0
# Which moment of the time that it stands a picture is painted for. At the middle, 0.5, sound is as
# often early as late, but late sound is borne better (ITU-R BT.1359: 45 ms early, 125 ms late).
# Less: where two pictures share a mouth, early by more; more: at ten a second late by over 60 ms.
MOMENT = 0.6
PLAYED_KEPT_S = 4.0  # heard sound is kept this long, for frames that are still being made


def check_sound(samples: I16, rate_hz: int) -> None:
    """Refuse what is not mono int16 at a sensible rate.

    Raises:
        MediaError: names what is wrong.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise MediaError(f"sound must be int16[N], mono; got {samples.dtype}{list(samples.shape)}")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise MediaError(f"sample rate {rate_hz} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")


class SpeechTimeline:
    """The new voice on the session's clock: to be played (48 kHz) and to be understood (16 kHz).

    Live, voice that is heard or understood is never changed any more: speech goes on where the
    last ended, or a safe stretch ahead of now, which is shorter where it has come already (`Pace`):
    then it takes the place of silence that pictures have only looked ahead at. Off-line the first
    speech begins at 0 and the rest follows without a pause.

    Args:
        config: delays and margins.
        lookahead_s: how far past a picture's time the model listens.
    """

    def __init__(self, config: EngineConfig, lookahead_s: float) -> None:
        self._config = config
        self._lookahead_s = lookahead_s
        lead_s = config.delay_s + lookahead_s + config.speech_margin_s + 1.0
        kept_s = PLAYED_KEPT_S + lead_s + config.speech_backlog_max_s
        self._playout = PlayoutBuffer(kept_s, PLAYOUT_RATE_HZ)
        self._mel = MelStream(kept_s)
        self._vad = VoiceActivity(seconds=kept_s)
        self._heard = SampleTimeline(PLAYOUT_RATE_HZ, self._playout)
        self._understood = SampleTimeline(
            SPEECH_RATE_HZ, self._mel, self._vad, resampled=lambda: self._trace.stamp("resampled")
        )
        self._trace = UNTRACED  # of what is being pushed
        self._rate_hz = 0  # of the utterance under way
        self._paused = True  # whether the lines end in silence that we put there
        self._speech_stop_s = 0.0  # the end of the last thing pushed
        self._read_stop = 0  # 48 kHz sample up to which the sound has been handed out
        self._live = False  # whether the voice under way was said to be
        self._drift, self._stretch, self._shorten = (
            DriftEstimator(None),
            DriftResampler(),
            PauseTrimmer(),
        )
        self._pushed_s = 0.0  # when
        self._pace = Pace()

    def push(
        self, samples: I16, rate_hz: int, time_s: float, live: bool = False, trace: Trace = UNTRACED
    ) -> float:
        """Schedule more voice; returns when its first sample plays.

        Args:
            samples: int16[N].
            rate_hz: their rate.
            time_s: the session's time now.
            live: it comes as it is spoken, by a clock of its own, and should be heard soon. What
                comes evenly without being called so is kept at the distance that it has.
            trace: told what is done with it.

        Raises:
            MediaError: not mono int16, or an odd rate.
            BacklogFull: nothing was taken; push it again when some has played.
        """
        check_sound(samples, rate_hz)
        waiting = self.backlog_s(time_s) + len(samples) / rate_hz
        if waiting > self._config.speech_backlog_max_s:
            raise BacklogFull(
                f"{waiting:.1f} s of voice would wait, at most "
                f"{self._config.speech_backlog_max_s:.0f} s may"
            )
        if not len(samples):
            return max(self._heard.end_s, time_s)
        self._forget(time_s)
        if rate_hz != self._rate_hz or live != self._live:
            self._silence_until(0)  # both lines change over at the same place
        if live != self._live or (not live and time_s - self._pushed_s > GONE_S):
            self._begin(live)
        self._pushed_s = time_s
        needed_s = time_s + self._config.delay_s + self._lookahead_s
        late = self._paused or self._understood.stop < needed_s * SPEECH_RATE_HZ
        if late and not self._config.offline:
            # Too late to go on where the last piece ended: its windows may have been used already.
            # The resampler keeps some back, which must not eat the margin.
            lag_s = max(
                resampler_lag_s(rate_hz, SPEECH_RATE_HZ),
                resampler_lag_s(rate_hz, PLAYOUT_RATE_HZ) - self._lookahead_s,
            )
            start_s = needed_s + self._config.speech_margin_s + lag_s
            piece_s = len(samples) / rate_hz
            short_s = needed_s - self._speech_stop_s
            if not live and self._pace.begin(piece_s, time_s, short_s):
                start_s = self._sooner(start_s - piece_s, time_s, rate_hz)
            self._silence_until(math.ceil(start_s * SPEECH_RATE_HZ))
            self._drift.restart()
        elif not self._config.offline:
            self._pace.record(len(samples) / rate_hz, time_s)
            ahead_s = self._understood.stop / SPEECH_RATE_HZ - needed_s
            self._drift.record(ahead_s, time_s)
            excess_s = self._drift.excess_s(ahead_s)
            samples = self._shorten.push(samples, rate_hz, excess_s if excess_s > LATE_S else 0.0)
        self._rate_hz, self._paused = rate_hz, False
        start_s = self._heard.end_s + self._stretch.held / rate_hz
        self._stretch.ratio = 1.0 + self._drift.correction
        self._trace = trace
        trace.stamp("scheduled")
        self._append(self._stretch.push(samples))
        trace.stamp("judged")
        self._trace = UNTRACED
        self._speech_stop_s = start_s + len(samples) / rate_hz
        return start_s

    def _sooner(self, safe_s: float, time_s: float, rate_hz: int) -> float:
        """Take back silence that was put where a voice may begin that has come already.

        Pictures that were begun keep it: they leave before the mouth would open. What was spoken
        and what was handed out to be heard stay.

        Args:
            safe_s: from here on what has come is enough for the pictures until more comes.
            time_s: the session's time now.
            rate_hz: of the voice.

        Returns:
            When it begins.
        """
        self._silence_until(0)
        begun_s = time_s + self._config.delay_s + 1 / SPEECH_RATE_HZ
        # The resampler to 48 kHz keeps some back, which must be there when it is to be heard.
        heard_s = max(time_s, self._read_stop / PLAYOUT_RATE_HZ)
        heard_s += resampler_lag_s(rate_hz, PLAYOUT_RATE_HZ)
        spoken_s = self._speech_stop_s + FADE_OUT_S
        start_s = max(safe_s, begun_s + ONSET_S, heard_s, spoken_s)
        place = math.ceil(start_s * SPEECH_RATE_HZ)
        self._understood.truncate(place)
        self._heard.truncate(place * RATIO)
        return start_s

    def _append(self, samples: I16) -> None:
        if len(samples):
            self._heard.append(samples, self._rate_hz)
            self._understood.append(samples, self._rate_hz)

    def _begin(self, live: bool) -> None:
        """Another voice, which has a clock of its own."""
        self._live = live
        self._drift = DriftEstimator(self._config.speech_margin_s if live else None)

    @property
    def drift(self) -> float:
        """How much faster the voice's clock is than ours, as a share; 0 while it is not known."""
        return self._drift.drift

    def flush(self) -> None:
        """The utterance is complete: play its last milliseconds too."""
        self._silence_until(0)
        self._pace.end()
        if not self._live:
            self._begin(live=False)

    def interrupt(self, time_s: float) -> float:
        """Drop what has not been played; returns when the voice now ends."""
        self.flush()
        # The fade must lie wholly in what nobody has fetched yet, or it is cut in two and clicks.
        fade_s = max(time_s, self._read_stop / PLAYOUT_RATE_HZ)
        cut = math.ceil((fade_s + FADE_OUT_S) * SPEECH_RATE_HZ)
        self._understood.truncate(cut)
        self._heard.truncate(cut * RATIO)
        self._speech_stop_s = min(self._speech_stop_s, cut / SPEECH_RATE_HZ)
        return cut / SPEECH_RATE_HZ

    def mel_window(
        self, time_s: float, columns: int = WINDOW_COLUMNS, stands_s: float = 0.0
    ) -> F32:
        """What the model hears for a picture shown from `time_s` on, f32[80, C].

        Args:
            time_s: the session's time.
            columns: of log-mel.
            stands_s: how long the picture stands. It is painted for `MOMENT` of that time, or as
                much of the way there as is known: a voice that is late is not cut for it.
        """
        self._forget(time_s)
        reach = (columns - 1) * HOP + HALF  # from a window's beginning, in samples
        start = window_start_at(time_s, columns)
        moment = window_start_at(time_s + MOMENT * stands_s, columns)
        self._need(start * HOP + reach)
        if self._paused:  # what comes next will be put further ahead
            self._need(moment * HOP + reach)
        known = (self._understood.stop - reach) // HOP
        return self._mel.window(min(moment, known), columns)

    def mel_ahead(
        self, time_s: float, columns: int, count: int, period_s: float
    ) -> tuple[F32, ...]:
        """What the model will hear for the pictures after one, f32[80, C] each.

        Args:
            time_s: when that one is shown.
            columns: of log-mel.
            count: of pictures at most; those whose sound has not come are left out.
            period_s: from one picture to the next.
        """
        need = (columns - 1) * HOP + HALF
        starts = (window_start_at(time_s + k * period_s, columns) for k in range(1, count + 1))
        return tuple(
            self._mel.window(start, columns)
            for start in starts
            if start * HOP + need <= self._understood.stop
        )

    def speaking(self, time_s: float) -> bool:
        """Whether the voice speaks around `time_s`, as far as it is known."""
        return self._vad.speaking(time_s)

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop) at 48 kHz of what is heard; they are played from now on."""
        if self._heard.stop < stop:
            self._silence_until(-(-stop // RATIO))
        self._read_stop = max(self._read_stop, stop)
        return self._playout.read(start, stop)

    def backlog_s(self, time_s: float) -> float:
        """Seconds of voice that wait to be played."""
        return max(0.0, self._speech_stop_s - time_s)

    @property
    def nbytes(self) -> int:
        """Memory held by sound."""
        return self._playout.nbytes + self._mel.nbytes

    def _need(self, stop: int) -> None:
        """What has not come by now, up to 16 kHz index `stop`, is silence."""
        if self._understood.stop < stop:
            self._silence_until(stop)

    def _silence_until(self, stop: int) -> None:
        """End the utterance and fill both lines with silence up to 16 kHz index `stop`."""
        self._append(self._stretch.finish())
        self._heard.finish()
        self._understood.finish()
        self._rate_hz = 0
        # Rounding may leave them a sample apart; from here on they are equally long again.
        end = max(self._understood.stop, -(-self._heard.stop // RATIO))
        self._paused = self._paused or stop > end
        self._understood.silence_until(max(end, stop))
        self._heard.silence_until(max(end, stop) * RATIO)

    def _forget(self, time_s: float) -> None:
        """Let go of what was played long ago; off-line the capacity alone rules."""
        frame = int((time_s - PLAYED_KEPT_S) * SPEECH_RATE_HZ) // FRAME
        if frame > 0 and not self._config.offline:
            if self._understood.stop < frame * FRAME:
                self._silence_until(0)
                self._paused = True
            self._understood.forget(frame * FRAME)
            self._heard.forget(frame * FRAME * RATIO)
