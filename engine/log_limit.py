"""LogLimiter: what fails with every frame is logged, and does not fill the disk."""

from __future__ import annotations

import logging

FAULTS_A_LINE = 250  # of video at 25 fps, 10 s


class LogLimiter:
    """Logs the first fault in full, and then a line for every so many."""

    def __init__(self, log: logging.Logger, so_far: str, *args: object) -> None:
        self._log, self._so_far, self._args = log, so_far, args
        self._count = 0

    def record(self, error: BaseException, what: str, *args: object) -> None:
        """Something failed by `error`; `what` and `args` say it as `Logger.error` takes them."""
        self._count += 1
        if self._count == 1:
            self._log.error(what, *args, exc_info=error)
        elif self._count % FAULTS_A_LINE == 0:
            self._log.error(self._so_far, *self._args, self._count)
