"""Re-lip a webcam or a file, live, through lipwire's engine alone.

python examples/relip.py 0 voice.wav                     camera 0, in a window; q ends it
python examples/relip.py talk.mp4 voice.wav -o out.mp4   a file at its own pace, into a file
"""

import argparse
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np

import lipwire
from lipwire.engine.media.files import read_frames
from lipwire.engine.media.sound import read_speech

BASE = Fraction(1, 90_000)


def pictures(source: str) -> Iterator[lipwire.engine.types.U8]:
    """RGB pictures as they come from a camera, or from a file at its own pace."""
    if source.isdigit():
        camera = cv2.VideoCapture(int(source))
        while (grabbed := camera.read())[0]:
            yield np.ascontiguousarray(grabbed[1][..., ::-1], np.uint8)
    else:
        late_s = None
        for frame in read_frames(source):
            late_s = late_s or time.monotonic() - frame.time_s
            time.sleep(max(0.0, frame.time_s + late_s - time.monotonic()))
            yield frame.image


def main() -> None:
    parser = argparse.ArgumentParser(description="Re-lip a webcam or a file, live.")
    parser.add_argument("source", help="a camera's number, or a video")
    parser.add_argument("speech", help="a file with the new voice")
    parser.add_argument("-o", "--out", help="an MP4 to write; without it, a window")
    args = parser.parse_args()
    voice = read_speech(args.speech, lipwire.SPEECH_RATE_HZ)
    source = pictures(args.source)
    height, width, _ = next(source).shape
    file = av.open(args.out, "w") if args.out else None
    if file:
        file.metadata["comment"] = "The lip movement in this video is AI-generated (lipwire)."
        video = file.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        video.width, video.height = width // 2 * 2, height // 2 * 2
        video.codec_context.time_base = BASE  # pictures come when they come, not 25 a second
        audio = file.add_stream("aac", rate=lipwire.PLAYOUT_RATE_HZ, layout="mono")
    with lipwire.open_engine() as opened:
        session = opened.session()
        for image in source:
            now = time.monotonic()
            if len(voice) and session.stats(now).speech_backlog_s < 2:  # a TTS may push at once
                second, voice = np.split(voice, [lipwire.SPEECH_RATE_HZ])
                session.push_speech(second, lipwire.SPEECH_RATE_HZ, now)
            session.push_video(lipwire.VideoFrame(image, round(now / BASE), BASE), now)
            while (shown := session.pop_video(now)) is not None:
                if file:
                    picture = av.VideoFrame.from_ndarray(shown.image, format="rgb24")
                    picture.pts, picture.time_base = round(shown.playout_s / BASE), BASE
                    file.mux(video.encode(picture))
                else:
                    cv2.imshow("lipwire", shown.image[..., ::-1])
            while (heard := session.pop_audio(now)) is not None:
                if file:
                    sound = av.AudioFrame.from_ndarray(heard.samples[None], "s16", "mono")
                    sound.sample_rate, sound.pts = heard.rate_hz, heard.start
                    file.mux(audio.encode(sound))
            if not file and cv2.waitKey(1) == ord("q"):
                break
        print(session.stats(time.monotonic()))
    if file:
        file.mux([*video.encode(None), *audio.encode(None)])
        file.close()


if __name__ == "__main__":
    main()
