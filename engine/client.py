"""One way to ask the store, whoever owns it: this process if it is free, the dashboard if that is running."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import commands, jobs
from engine.owner import Owner, answer_path
from engine.records import SignetError
from engine.store import RELEASE, Store, StoreBusy


class Client:
    """Asks operations of a store. Owns the store when it is free; otherwise its owner answers. Use with `with`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._owner: Owner | None = None
        self._try_to_own()

    def _try_to_own(self) -> bool:
        try:
            self._owner = Owner(Store(self.home))
        except StoreBusy:
            return False
        return True

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner:
            self._owner.close()
            self._owner.store.close()
            self._owner = None

    def call(self, operation: str, **arguments: Any) -> Any:
        """The operation's result; SignetError with its sentence where it failed."""
        if self._owner:
            return self._unpack(commands.answer(self._owner.store, operation, arguments))
        inbox = self.home / "inbox"
        inbox.mkdir(exist_ok=True)
        request = inbox / f"{time.time():.6f}-{uuid.uuid4().hex[:8]}.request.json"
        jobs.write_json(request, {"op": operation, "args": arguments})
        reply = answer_path(request)
        try:
            while True:
                body = jobs.read_json(reply)
                if body is not None:
                    return self._unpack(body)
                if self._try_to_own():  # the owner is gone: do it ourselves
                    return self.call(operation, **arguments)
                time.sleep(0.1)
        finally:
            request.unlink(missing_ok=True)
            reply.unlink(missing_ok=True)

    def _unpack(self, body: dict[str, Any]) -> Any:
        if "error" in body:
            raise SignetError(body["error"])
        return body["ok"]

    def stop(self, identity: str) -> None:
        """Cancel a job and wait, some seconds at most, until it has stopped."""
        if jobs.read_state(jobs.require(self.home, identity)).state in jobs.ENDED:
            return
        self.call("cancel", job=identity)
        for _ in range(150):
            if self._owner:
                self._owner.tick()
            if jobs.read_state(jobs.require(self.home, identity)).state in jobs.ENDED:
                return
            time.sleep(0.1)

    def follow(self, identity: str, report: Callable[[jobs.Job, jobs.State, jobs.Progress], None]) -> jobs.State:
        """Wait until a job has ended, reporting as it goes; SignetError with its sentence if it failed."""
        while True:
            job = jobs.require(self.home, identity)
            if self._owner and (self.home / RELEASE).exists():
                self._owner.release()  # a dashboard wants the store; the workers go on, it takes their results in
                self._owner = None
                time.sleep(0.5)
            elif self._owner:
                self._owner.tick()
            else:
                self._try_to_own()
            state = jobs.read_state(job)
            report(job, state, jobs.progress(job))
            if state.state == "failed":
                raise SignetError(state.error)
            if state.state in jobs.ENDED:
                return state
            time.sleep(0.1)
