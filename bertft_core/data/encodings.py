"""The encoding of a file by its bytes alone, and whether they are text at all; one pass, block by block."""

from __future__ import annotations

import codecs
import re

from bertft_core.base.errors import DataError
from bertft_core.base.text import counted

_CONTROL = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b")
_CONTROL_SHARE = 0.02  # of the first block; above it the content is binary
_C1 = bytes(range(0x80, 0xA0))  # control signs in latin-1 that nobody writes; quotes, dashes and the euro in cp1252
_NOT_CP1252 = b"\x81\x8d\x8f\x90\x9d"
_HIGH, _LEAD = bytes(range(0x80, 0x100)), bytes(range(0xC2, 0xF5))
_SIGN = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")  # of UTF-8
_MARKS = {  # the longer ones first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class ByteMarks:
    """What the bytes of a file tell. `add` takes its blocks in order, the first at least 4 bytes where there are."""

    def __init__(self) -> None:
        self.size = 0
        self._utf16: str | None = None  # or UTF-32
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._is_utf8, self._is_ascii, self._has_c1, self._is_cp1252 = True, True, False, True
        self._nul, self._is_binary = -1, False
        self._signs, self._bad, self._first_bad = 0, 0, -1  # signs of several bytes in UTF-8; bytes that are none

    def add(self, block: bytes) -> None:
        """Look at the next block."""
        if self.size == 0:
            self._utf16 = next((name for mark, name in _MARKS.items() if block.startswith(mark)), None)
            self._utf16 = self._utf16 or utf16_of(block)
            controls = len(block) - len(block.translate(None, _CONTROL))
            self._is_binary = self._utf16 is None and controls > _CONTROL_SHARE * len(block)
        if self._nul < 0 and (place := block.find(b"\0")) >= 0:
            self._nul = self.size + place
        if self._is_utf8:
            self._is_utf8 = self._decodes(block)
        if not block.isascii():
            self._is_ascii = False
            if self._is_utf8:
                self._signs += len(block) - len(block.translate(None, _LEAD))
            else:  # a sign in two blocks counts as bad bytes
                left, signs = _SIGN.subn(b"", block)
                self._signs += signs
                self._bad += len(left) - len(left.translate(None, _HIGH))
            self._has_c1 = self._has_c1 or len(block.translate(None, _C1)) < len(block)
            self._is_cp1252 = self._is_cp1252 and len(block.translate(None, _NOT_CP1252)) == len(block)
        self.size += len(block)

    def _decodes(self, block: bytes, *, final: bool = False) -> bool:
        waiting = len(self._utf8.getstate()[0])
        try:
            self._utf8.decode(block, final)
        except UnicodeDecodeError as fault:
            self._first_bad = self.size - waiting + fault.start
            if final:
                self._signs, self._bad = self._signs - 1, self._bad + waiting
            return False
        return True

    @property
    def _is_broken_utf8(self) -> bool:
        """More signs of several bytes than bytes that are none: in another encoding almost every one would be bad."""
        return not self._is_utf8 and self._signs > self._bad

    def encoding(self, usual: str | None, *, stated: str | None = None) -> str:
        """UTF-16 or UTF-32 by their marks, UTF-8, cp1252 where bytes 0x80 to 0x9F occur, else latin-1.

        UTF-8 too where more signs of several bytes than bytes that are none speak for it: `require_text` refuses it.

        stated: what the user says it is, taken but for the byte order of a file with a mark, which is then no text.

        usual: what such files are in otherwise, taken where the bytes say neither UTF-16 nor, by other than ASCII
        signs, UTF-8.
        """
        if stated is not None:
            has_mark = self._utf16 is not None and codecs.lookup(stated).name.startswith(self._utf16)
            return str(self._utf16) if has_mark else stated
        if self._utf16 is not None:
            return self._utf16
        self._is_utf8 = self._is_utf8 and self._decodes(b"", final=True)
        says_utf8 = self._is_utf8 and not self._is_ascii
        if usual is not None and not says_utf8 and not ("a".encode(usual) != b"a" and self._nul < 0):
            return usual
        if self._is_utf8 or self._is_broken_utf8:
            return "utf-8"
        return "cp1252" if self._has_c1 and self._is_cp1252 else "latin-1"

    def require_text(self, name: str) -> None:
        """Raises DataError for NUL bytes, over 2 % control characters in the first block, or UTF-8 with bad bytes."""
        if self._utf16 is not None:
            return
        if self._nul >= 0:
            raise DataError(
                f"{name}: NUL byte at byte {self._nul}: binary content, wanted text; export it again, or name its "
                "encoding in data.encoding"
            )
        if self._is_binary:
            raise DataError(f"{name}: the content is binary (control characters), wanted a text file")
        if self._is_broken_utf8:
            raise DataError(
                f"{name}: byte {self._first_bad} is no UTF-8, while {counted(self._signs, 'sign')} of several bytes "
                f"{'is' if self._signs == 1 else 'are'}: mend it there, or name the file's encoding in data.encoding"
            )


def utf16_of(block: bytes) -> str | None:
    """utf-16-le or utf-16-be of a first block without a mark, None where it is neither.

    Most bytes 0x0A at the place that a line feed has in a pair must be line feeds; a line holds a NUL for its line feed
    and one for its delimiter or quotation mark, and no NUL is a sign.
    """
    nuls = block.count(b"\0")
    for name, place in (("utf-16-le", 0), ("utf-16-be", 1)) if nuls else ():
        try:
            text = codecs.getincrementaldecoder(name)().decode(block)
        except UnicodeDecodeError:
            continue
        feeds = text.count("\n")
        if feeds and "\0" not in text and 2 * feeds > block[place::2].count(b"\n") and nuls >= 2 * feeds:
            return name
    return None
