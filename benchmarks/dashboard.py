"""A running dashboard and visitors who speak Streamlit's own protocol to it, as a browser does.

A visitor opens the websocket, asks for a page, and reads messages until the script has finished. What a browser keeps
between visits it keeps too: the page list, the sidebar's choices, the address, and the cache of large messages, of
which the server then sends the hash only. Nothing is drawn: benchmarks/browsing.py measures that in Chromium.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.settings import ROOT

PATIENCE = 120.0  # seconds after which a page counts as an error
SIDEBAR = 1  # the container of the sidebar in every delta path


@dataclass
class Server:
    """A dashboard in its own process: its address and what it uses."""

    address: str
    pid: int
    started_s: float  # from starting the process to its first healthy answer

    def memory_mb(self) -> float | None:
        """Resident memory now, in MB; None where there is no /proc."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3, 1)

    def cpu_s(self) -> float | None:
        """Processor seconds used so far, of every thread; None where there is no /proc."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(home: Path) -> Iterator[Server]:
    """`streamlit run app.py` over the store in `home` (made with the bundled audit if empty), until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    words = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.address=127.0.0.1"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=os.environ | {"SIGNET_HOME": str(home)})  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        while not _healthy(address):
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise RuntimeError(f"the dashboard did not start (exit {process.poll()})")
            time.sleep(0.02)
        yield Server(address, process.pid, round(time.perf_counter() - began, 3))
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@dataclass
class Visit:
    """One page asked for and read to its end."""

    page: str
    seconds: float  # rerun sent to script finished
    kilobytes: float
    errors: list[str]


@dataclass
class _Run:
    """What one run of the script has sent so far."""

    bytes: int = 0
    titles: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Visitor:
    """One browser's session: `async with Visitor(address) as visitor: await visitor.visit("Values")`."""

    def __init__(self, address: str, query: str = "") -> None:
        self._address = address
        self._query = query  # the address bar's
        self._pages: dict[str, tuple[str, str]] = {}  # title: script hash, url path
        self._main = ""  # hash of the script that frames every page
        self._seen: dict[str, tuple[int, Any]] = {}  # hash: run when last used, a large message kept
        self._most_age = 2
        self._runs = 0
        self._widgets: dict[str, str] = {}  # id: value of the sidebar's select boxes

    async def __aenter__(self) -> Visitor:
        from websockets.asyncio.client import connect

        parts = urlsplit(self._address)
        self._socket = await connect(
            f"ws://{parts.netloc}/_stcore/stream", origin=self._address, subprotocols=["streamlit"], max_size=None,  # type: ignore[arg-type, list-item]
            open_timeout=PATIENCE, ping_timeout=PATIENCE,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    @property
    def pages(self) -> list[str]:
        """Titles of every page in the navigation; empty before the first visit."""
        return list(self._pages)

    async def visit(self, page: str = "", path: str = "") -> Visit:
        """Go to a page by its title in the navigation, or, as the first visit of a session, by its path."""
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        ask = message.rerun_script
        ask.query_string = self._query
        ask.page_script_hash, ask.page_name = (self._pages[page][0], "") if page else ("", path)
        ask.cached_message_hashes.extend(self._seen)
        context = ask.context_info
        context.timezone, context.locale, context.color_scheme = "UTC", "en-GB", "light"
        context.url = f"{self._address}/{self._pages[page][1] if page else path}?{self._query}"
        for key, value in self._widgets.items():
            state = ask.widget_states.widgets.add()
            state.id, state.string_value = key, value
        run = _Run()
        began = time.perf_counter()
        try:
            await self._socket.send(message.SerializeToString())
            async with asyncio.timeout(PATIENCE):
                while not self._take(await self._socket.recv(), run):
                    pass
        except TimeoutError:
            run.errors.append(f"no end within {PATIENCE:g} s")
        except Exception as error:  # a closed socket is the server's fault, to be counted and told
            run.errors.append(f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - began
        self._runs += 1
        self._seen = {key: kept for key, kept in self._seen.items() if self._runs - kept[0] <= self._most_age}
        if page and page not in run.titles and not run.errors:
            run.errors.append(f"the page shows the title {', '.join(run.titles) or 'nothing'}")
        return Visit(page or path, seconds, run.bytes / 1e3, run.errors)

    def _take(self, data: Any, run: _Run) -> bool:
        """Note one message; whether the script has finished."""
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        run.bytes += len(data)
        message = ForwardMsg()
        message.ParseFromString(data)
        kind = message.WhichOneof("type")
        if kind == "ref_hash":
            kept = self._seen.get(message.ref_hash)
            if kept is None:
                run.errors.append("the server named a message that this browser does not have")
                return False
            self._seen[message.ref_hash] = (self._runs, kept[1])
            message = kept[1]
            kind = message.WhichOneof("type")
        elif message.metadata.cacheable:
            self._seen[message.hash] = (self._runs, message)
        if kind == "new_session":
            self._main = message.new_session.main_script_hash
            self._most_age = message.new_session.config.max_cached_message_age or self._most_age
        elif kind == "navigation":
            self._pages = {p.page_name: (p.page_script_hash, p.url_pathname) for p in message.navigation.app_pages}
        elif kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        elif kind == "page_not_found":
            run.errors.append("page not found")
        elif kind == "session_event" and message.session_event.WhichOneof("type") == "script_compilation_exception":
            run.errors.append(message.session_event.script_compilation_exception.message)
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._element(message, run)
        if kind != "script_finished":
            return False
        if message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
            run.errors.append("the script did not compile")
        return bool(message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN)

    def _element(self, message: Any, run: _Run) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            run.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            run.errors.append(element.alert.body)
        elif kind == "heading" and element.heading.tag == "h1":
            run.titles.append(element.heading.body)
        elif kind == "selectbox" and message.metadata.delta_path[0] == SIDEBAR:
            box = element.selectbox
            self._widgets[box.id] = box.raw_value if box.set_value else box.options[box.default]
