"""Lines of text files: opened, unpacked and decoded in one place, where all that can be wrong with bytes is found."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files.names import Broken

LFS_POINTER = b"version https://git-lfs.github.com/spec"
GZIP = b"\x1f\x8b"
OTHER_CONTENT = {  # what a file starts with that is not the text its name promises
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as csv",
    b"PAR1\x15": "a parquet file; let its name end in .parquet",
    GZIP: "compressed by gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"BZh91AY&SY": "compressed by bzip2; unpack it",
}
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NO_TEXT = re.compile("[\0\udc80-\udcff]")  # NUL, and how "surrogateescape" marks bytes that are no text
HINT = "convert the file (iconv -f ITS_ENCODING -t UTF-8), or give its encoding (data.encoding, --encoding)"


def read_lines(
    source: Path | IO[bytes], encoding: str = "utf-8", name: str = "", broken: Broken | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a plain text file or stream; a blank line is a text too.

    A line ends at \\n or \\r\\n, as an editor counts; what else looks like an end (\\r, form feed, U+2028) is a
    character of a text. name: what messages call a stream. Raises InputError with the line for bytes that are no text.
    """
    for number, line in pieces(source, encoding, name=name, broken=broken):
        yield number, line.removesuffix("\n").removesuffix("\r")


def pieces(source: Path | IO[bytes], encoding: str, size: int | None = None, name: str = "",
           broken: Broken | None = None, check: bool = True) -> Iterator[tuple[int, str]]:  # fmt: skip
    """Yield (line it begins on, text): the lines of a text file with their ends, or pieces of `size` characters.

    broken: takes the error of a line with bytes that are no text, which is left out; None raises it. check: false
    leaves such bytes in, as surrogates.
    """
    name, number = name or str(source), 1
    try:
        with _opened(source, encoding, name) as stream:
            for piece in stream if size is None else iter(lambda: stream.read(size), ""):
                text = piece.removeprefix("\ufeff") if number == 1 else piece
                plain = not check or (text.isascii() and "\0" not in text)
                wrong = None if plain else wrong_bytes(text, encoding, name, number)
                if wrong is None and text:
                    yield number, text
                elif wrong is not None and broken is None:
                    raise wrong
                elif wrong is not None and broken is not None:
                    broken(wrong)
                number += piece.count("\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is not a complete gzip file: damaged after line {number - 1} ({one_line(error)}); get it again"
        ) from error
    except UnicodeError as error:
        raise InputError(f"{name}:{number} is not {encoding} text ({one_line(error)}); {HINT}") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or one_line(error)}; expected a file that can be read") from error


@contextmanager
def _opened(source: Path | IO[bytes], encoding: str, name: str) -> Iterator[IO[str]]:
    """Open a text file, unpacked and with its first bytes checked; bytes that are no text become surrogates."""
    packed = isinstance(source, Path) and source.suffix.lower() == ".gz"
    opened: Any = source.open("rb") if isinstance(source, Path) else nullcontext(io.BufferedReader(source))  # type: ignore[type-var]
    with opened as raw:
        start = raw.peek(64)  # the source is opened once: it may be a pipe
        if packed and start and not start.startswith((GZIP, LFS_POINTER)):
            raise InputError(f"{name} is no gzip file, though its name ends in .gz; rename it, or get it again")
        stream = gzip.GzipFile(fileobj=raw) if packed and start.startswith(GZIP) else raw
        _check_start(stream.peek(64), encoding, name)
        yield io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="\n")


def check_pointer(start: bytes, name: str) -> None:
    """Raise InputError where a file's first bytes are those of a Git LFS pointer."""
    if start.startswith(LFS_POINTER):
        raise InputError(f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def _check_start(start: bytes, encoding: str, name: str) -> None:
    check_pointer(start, name)
    for mark, content in OTHER_CONTENT.items():
        if start.startswith(mark):
            raise InputError(f"{name} is {content}")
    try:
        given = codecs.lookup(encoding).name
    except LookupError as error:
        raise InputError(f"data.encoding={encoding} is unknown; give a name Python knows, e.g. utf-8") from error
    for mark, found in BYTE_ORDER_MARKS.items():
        if start.startswith(mark) and not given.startswith((found, "utf-32")):
            raise InputError(f"{name} is {found} text by its byte order mark, expected {encoding}; {HINT}")


def wrong_bytes(text: str, encoding: str, name: str, number: int) -> InputError | None:
    """Return the error for the first byte that is no text, None where there is none."""
    if not (wrong := NO_TEXT.search(text)):
        return None
    line, byte = number + text.count("\n", 0, wrong.start()), ord(wrong[0]) & 0xFF
    return InputError(f"{name}:{line} is not {encoding} text (byte 0x{byte:02x}), which was expected; {HINT}")
