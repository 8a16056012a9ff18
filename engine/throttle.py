"""How many requests a server bears at once: found by climbing while its throughput grows, cut when it is busy.

The limit starts low and doubles as long as doubling makes the server finish a tenth more work a second; then half of
the last doubling is taken back, so that a few requests always wait and the server never does. Every sign of overload
halves it, and it comes back one by one (additive increase, multiplicative decrease, as TCP does).
"""

from __future__ import annotations

import time

START = 16
GAIN = 1.1  # what a doubling must bring
COOL = 1.0  # seconds in which several signs of overload count as one


class Throttle:
    """`limit` is how many requests may be under way. `fixed`: the user's number, no climbing; `most`: never more."""

    def __init__(self, fixed: int | None = None, most: int = 256) -> None:
        self._most = fixed or most
        self.limit = fixed or min(START, most)
        self._climbing = fixed is None and self.limit < most
        self._before = self.limit
        self._best = 0.0
        self._cut_at = float("-inf")
        self.restart()

    def restart(self) -> None:
        """Forget the present measurement: the stream of requests paused."""
        self._finished, self._work, self._began = 0, 0.0, 0.0

    def finished(self, work: float) -> None:
        """One request was answered; `work` in any unit that predicts the server's effort, as characters."""
        self._finished += 1
        if not self._climbing:
            if self._finished >= self.limit:
                self.limit = min(self.limit + 1, self._most)
                self._finished = 0
        elif self._finished == self.limit:  # those before were sent under the last limit
            self._began = time.monotonic()
        elif self._finished > self.limit:
            self._work += work
            if self._finished >= 2 * self.limit + 1:
                self._decide()

    def _decide(self) -> None:
        rate = self._work / max(time.monotonic() - self._began, 1e-9)
        if rate < GAIN * self._best:
            self._climbing, self.limit = False, (self._before + self.limit) // 2
            self._most = self.limit
        elif self.limit >= self._most:
            self._climbing = False
        else:
            self._best, self._before = rate, self.limit
            self.limit = min(2 * self.limit, self._most)
        self.restart()

    def busy(self) -> None:
        """The server said that it has too much to do."""
        now = time.monotonic()
        if now - self._cut_at > COOL:
            self._cut_at = now
            if self._climbing:
                self._climbing, self._most = False, self.limit
            self.limit = max(1, self.limit // 2)
            self.restart()
