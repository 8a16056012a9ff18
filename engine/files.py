"""Files as streams of raw rows: JSON, JSONL, CSV, TSV, Parquet and Arrow, plain, gzipped or zstandard.

The content decides where the ending lies. Nothing is ever held whole: lines, fields and expansion are bounded, and what
exceeds a bound or cannot be decoded is one row's problem where it can be, one sentence where it cannot.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from engine.records import SignetError

LONGEST_LINE = 16 << 20  # bytes of one record
MOST_COLUMNS = 2_000
EXPANSION = 300  # times the compressed size, past the first FREE bytes
FREE = 256 << 20
TEXT_ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "jsonl"}
ENDINGS = (*TEXT_ENDINGS, ".parquet", ".arrow", ".feather")


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row: its values by column, or the problem why there are none. `number` is a line or a row, from 1."""

    number: int
    values: dict[str, Any] | None
    problem: str = ""


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to grow past EXPANSION times its file."""

    def __init__(self, inner: Any, path: Path) -> None:
        self._inner, self._path = inner, path
        self._allowed = FREE + EXPANSION * path.stat().st_size
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except OSError as error:
            raise SignetError(
                f"{self._path.name}: the compressed data is damaged or cut off after {self._seen:,} bytes ({error}); "
                "get the file again."
            ) from None
        self._seen += len(data)
        if self._seen > self._allowed:
            raise SignetError(
                f"{self._path.name}: expands to more than {EXPANSION} times its size, so it is not read; decompress it "
                "yourself if you trust it."
            )
        buffer[: len(data)] = data
        return len(data)


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise SignetError(f"{path.name}: cannot be opened ({error.strerror}).") from None


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, decompressed by what its first bytes say; damage and bombs become SignetError while reading."""
    magic = _magic(path)
    codec = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(magic[:2])
    if codec:
        return io.BufferedReader(_Bounded(pa.input_stream(str(path), compression=codec), path), 1 << 20)
    if magic[:4] == b"PK\x03\x04":
        raise SignetError(f"{path.name}: zip archives are not read; unpack it and name the folder.")
    return path.open("rb")


def kind_of(path: Path) -> str:
    """parquet, arrow, arrow_stream, json, jsonl, csv or tsv; SignetError for what is none of them."""
    magic = _magic(path)
    if path.is_file() and path.stat().st_size == 0:
        raise SignetError(f"{path.name}: the file is empty.")
    if magic[:4] == b"PAR1":
        return "parquet"
    if magic[:6] == b"ARROW1":
        return "arrow"
    if magic[:4] == b"\xff\xff\xff\xff":
        return "arrow_stream"
    with open_bytes(path) as file:
        head = file.read(1 << 16)
    if not head.strip():
        raise SignetError(f"{path.name}: the file holds nothing but blank space.")
    suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() in (".gz", ".zst") else path.suffix.lower()
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if suffix in (".parquet", ".arrow", ".feather") or (b"\x00" in head and not wide):
        raise SignetError(
            f"{path.name}: this is no {suffix[1:] or 'text'} file that can be read (it begins with {magic[:4]!r}); "
            "JSON, JSONL, CSV, TSV, Parquet and Arrow are."
        )
    text = head.decode(encoding_of(head), "replace").lstrip()
    if text[:1] == "[":
        return "json"
    if text[:1] == "{":
        return "jsonl" if _is_lines(text) else "json"
    if suffix in (".json", ".jsonl", ".ndjson"):
        raise SignetError(f"{path.name}: line 1 begins with {text[:12]!r}, so this is not JSON.")
    first = text.splitlines()[0] if text else ""
    return "tsv" if suffix == ".tsv" or first.count("\t") > first.count(",") else "csv"


def _is_lines(text: str) -> bool:
    first = text.splitlines()[0]
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return first.rstrip() not in ("{", "{ ") and not first.rstrip().endswith(("[", "{", ","))
    except RecursionError:
        return True


def encoding_of(head: bytes) -> str:
    """utf-8-sig, utf-16 or utf-8, by the byte order mark."""
    if head.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(line number, bytes without the line end), None for a line longer than LONGEST_LINE, which is skipped."""
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            else:
                yield number, line.rstrip(b"\r\n")


def _jsonl(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        encoding = encoding_of(file.read(4))
    if encoding == "utf-16":
        source: Iterator[tuple[int, bytes | None]] = _transcoded(path)
    else:
        source = _lines(path)
    for number, line in source:
        if line is None:
            yield Row(number, None, f"the line is longer than {LONGEST_LINE >> 20} MB")
            continue
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            yield Row(number, None, "the line is not UTF-8 text")
            continue
        except RecursionError:
            yield Row(number, None, "the JSON is nested too deeply")
            continue
        except ValueError as error:
            yield Row(number, None, f"not valid JSON ({str(error).split(':')[0]})")
            continue
        yield _object(number, value)


def _transcoded(path: Path) -> Iterator[tuple[int, bytes | None]]:
    with open_bytes(path) as file, io.TextIOWrapper(file, "utf-16") as text:
        try:
            number = 0
            while line := text.readline(LONGEST_LINE):
                number += 1
                yield number, line.encode("utf-8", "surrogatepass")
        except UnicodeError:
            raise SignetError(f"{path.name}: line {number + 1} is not utf-16 text; save the file as UTF-8.") from None


def _object(number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(number, None, f"a {type(value).__name__} where an object with fields was expected")
    if len(value) > MOST_COLUMNS:
        return Row(number, None, f"{len(value):,} fields, more than {MOST_COLUMNS:,}")
    return Row(number, value)


def _json(path: Path) -> Iterator[Row]:
    import ijson

    with open_bytes(path) as file:
        prefix, depth = "item", 0
        try:
            for place, event, _ in ijson.parse(file):
                if event == "start_array" and depth <= 1:
                    prefix = f"{place}.item" if place else "item"
                    break
                depth += (event == "start_map") - (event == "end_map")
            else:
                raise SignetError(f"{path.name}: this JSON holds no list of records; a list of objects is expected.")
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise SignetError(f"{path.name}: not valid JSON ({_short(error)}).") from None
    with open_bytes(path) as file:
        number = 0
        try:
            for value in ijson.items(file, prefix, use_float=True):
                number += 1
                yield _object(number, value)
        except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
            raise SignetError(
                f"{path.name}: not valid JSON after record {number:,} ({_short(error)}); nothing was imported."
            ) from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_LINE)
    with open_bytes(path) as file:
        encoding = encoding_of(file.read(4))
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
        reader = csv.reader((line.replace("\0", "") for line in _bounded_lines(text, path)), delimiter=delimiter)
        number = 0
        try:
            header = next(reader, [])
            if len(header) > MOST_COLUMNS:
                raise SignetError(f"{path.name}: {len(header):,} columns, more than {MOST_COLUMNS:,}.")
            doubled = sorted({name for name in header if header.count(name) > 1}) if len(header) < 500 else []
            if doubled:
                raise SignetError(f"{path.name}: line 1 names the column {doubled[0]!r} twice.")
            for fields in reader:
                number = reader.line_num
                if not fields:
                    continue
                if len(fields) != len(header):
                    yield Row(number, None, f"{len(fields)} fields where the header has {len(header)}")
                    continue
                yield Row(number, dict(zip(header, fields)))
        except csv.Error as error:
            raise SignetError(
                f"{path.name}: line {reader.line_num or number + 1} cannot be read as a table ({error}); "
                "is a quotation mark not closed?"
            ) from None
        except UnicodeError:
            raise SignetError(
                f"{path.name}: after line {reader.line_num:,} the text is not {encoding}; save the file as UTF-8."
            ) from None


def _bounded_lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise SignetError(f"{path.name}: line {number} is longer than {LONGEST_LINE >> 20} MB.")
        yield line


def _batches(path: Path, kind: str) -> Iterator[Any]:
    try:
        if kind == "parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=1024)
        else:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source) if kind == "arrow" else pa.ipc.open_stream(source)
                if kind == "arrow":
                    for i in range(reader.num_record_batches):
                        yield reader.get_batch(i)
                else:
                    yield from reader
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SignetError(f"{path.name}: damaged or cut off {kind.split('_')[0]} file ({_short(error)}).") from None


def _columnar(path: Path, kind: str) -> Iterator[Row]:
    number = 0
    for batch in _batches(path, kind):
        if batch.num_columns > MOST_COLUMNS:
            raise SignetError(f"{path.name}: {batch.num_columns:,} columns, more than {MOST_COLUMNS:,}.")
        for start in range(0, batch.num_rows, 1024):
            try:
                values = batch.slice(start, 1024).to_pylist()
            except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
                raise SignetError(f"{path.name}: rows after {number:,} cannot be read ({_short(error)}).") from None
            for value in values:
                number += 1
                yield Row(number, value)


def rows(path: Path) -> Iterator[Row]:
    """Every row of a file, in order, streamed. SignetError: one sentence when the file as a whole cannot be read."""
    kind = kind_of(path)
    if kind in ("parquet", "arrow", "arrow_stream"):
        return _columnar(path, kind)
    if kind == "json":
        return _json(path)
    if kind == "jsonl":
        return _jsonl(path)
    return _csv(path, "\t" if kind == "tsv" else ",")


def paths_of(source: str) -> list[Path]:
    """The files a path, folder or glob names, in order; SignetError when there are none."""
    import glob

    path = Path(source).expanduser()
    if any(sign in source for sign in "*?["):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207 (absolute patterns)
        if not found:
            raise SignetError(f"{source}: no file matches this pattern.")
        return found
    if path.is_dir():
        endings = tuple(e + c for e in ENDINGS for c in ("", ".gz", ".zst"))
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(endings))
        found = [p for p in found if p.name not in ("dataset_info.json", "state.json", "dataset_infos.json")]
        if not found:
            raise SignetError(f"{source}: no data file in this folder (looked for {', '.join(ENDINGS)}).")
        return found
    if not path.is_file():
        raise SignetError(f"{source}: there is no such file.")
    return [path]
