"""HTTP/1.1 to one server over many kept connections, for requests by the hundred thousand.

httpx spends 2 ms of a core on a request, and more the more connections are open (8 ms at 64, see
benchmarks/endpoint_scoring.py), so that it, not the server, would set the pace of scoring. This speaks the part of the
protocol that a JSON API needs (RFC 9112: lengths, chunks, kept and closed connections) straight on asyncio's streams,
for a tenth of a millisecond. It knows no proxies, redirects, cookies or compression.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

HEAD = 1 << 16  # bytes a response's head may have


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered; header names are in small letters."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass(slots=True)
class _Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False


class Wire:
    """Requests to `base_url` (http or https, with or without a path) from one event loop.

    `timeout`: seconds for a whole request; `connect`: for opening a connection. Raises OSError (TimeoutError and
    ConnectionError are its kinds) when no whole answer came.
    """

    def __init__(self, base_url: str, headers: dict[str, str], timeout: float = 300.0, connect: float = 10.0) -> None:
        parts = urlsplit(base_url)
        self._host, self._prefix = parts.hostname or "", parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._timeout, self._connect = timeout, connect
        fixed = {"Host": parts.netloc, "Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._idle: list[_Line] = []

    async def request(self, path: str, body: bytes | None = None) -> Response:
        """The answer to a GET, or to a POST of `body`."""
        method, length = ("GET", "") if body is None else ("POST", f"Content-Length: {len(body)}\r\n")
        sent = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fixed}{length}\r\n".encode() + (body or b"")
        async with asyncio.timeout(self._timeout):
            while True:
                line = self._idle.pop() if self._idle else await self._open()
                try:
                    line.writer.write(sent)
                    await line.writer.drain()
                    response, keep = await _read(line.reader)
                except (EOFError, ConnectionError, ValueError, asyncio.LimitOverrunError) as error:
                    line.writer.close()
                    stale = line.used and not getattr(error, "partial", b"")
                    if stale and isinstance(error, EOFError | ConnectionError):
                        continue  # the server had closed a connection that it kept; a new one tells
                    raise ConnectionError(f"no whole answer ({type(error).__name__})") from None
                except BaseException:  # cancelled, or out of time: the rest of the answer must reach nobody
                    line.writer.close()
                    raise
                if keep:
                    line.used = True
                    self._idle.append(line)
                else:
                    line.writer.close()
                return response

    async def _open(self) -> _Line:
        opening = asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=HEAD)
        return _Line(*await asyncio.wait_for(opening, self._connect))

    async def close(self) -> None:
        """Close the kept connections."""
        lines, self._idle = self._idle, []
        for line in lines:
            line.writer.close()
        await asyncio.gather(*(line.writer.wait_closed() for line in lines), return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> tuple[Response, bool]:
    """One answer, and whether the connection can be used again."""
    while True:
        first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        version, status = first.split(" ")[:2]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if int(status) >= 200:  # what comes before is not the answer yet
            break
    keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if "chunked" in headers.get("transfer-encoding", "").lower():
        content = b"".join([piece async for piece in _chunks(reader)])
    elif "content-length" in headers:
        content = await reader.readexactly(int(headers["content-length"]))
    elif int(status) in (204, 304):
        content = b""
    else:
        content, keep = await reader.read(), False
    return Response(int(status), headers, content), keep


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
