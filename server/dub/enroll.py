"""A film of one person -> that person's own mouths, for calls to begin with."""

from __future__ import annotations

from pathlib import Path

from lipwire.engine import BankError, Consent, EnrolledBank, open_engine
from lipwire.engine.config import EngineConfig
from lipwire.engine.media.files import probe_video
from lipwire.server.dub.dub import Progress, learn_film


def enroll(
    video: Path, consent: Consent, bundle: Path | None = None, progress: Progress | None = None
) -> EnrolledBank:
    """The mouths of the person whom a film shows most.

    Args:
        video: any container that PyAV opens.
        consent: of that person.
        bundle: the model; None takes the one that ships with lipwire.
        progress: is told how far it is.

    Raises:
        MediaError: the film cannot be used.
        BankError: it shows too few mouths, or the model takes none.
        BundleError: the model cannot be used.
    """
    info = probe_video(video)
    with open_engine(bundle, batch_sizes=(1,)) as engine:
        if not engine.chooses:
            raise BankError("this model generates every mouth; it has no use for a bank")
        session = engine.session(EngineConfig(offline=True), name=video.name)
        try:
            learn_film(video, session, info.frames, progress)
            return session.enrolled(consent)
        except BankError as error:
            raise BankError(f"{video}: {error}") from error
        finally:
            engine.end(session)
