"""A small picture of coloured pixels and its PNG file, with the standard library alone. Knows no charts.

The letters are 5 x 7 dots, drawn for this file: each is seven rows of five bits.
"""

from __future__ import annotations

import struct
import zlib

Colour = tuple[int, int, int]
_LETTERS = (
    "0:0E111315 19110E|1:040C0404 04040E|2:0E110102 04081F|3:1F020402 01110E|4:02060A12 1F0202|5:1F101E01 01110E|"
    "6:0608101E 11110E|7:1F010204 080808|8:0E11110E 11110E|9:0E11110F 01020C|A:0E111111 1F1111|B:1E11111E 11111E|"
    "C:0E111010 10110E|D:1C121111 11121C|E:1F10101E 10101F|F:1F10101E 101010|G:0E111017 11110F|H:1111111F 111111|"
    "I:0E040404 04040E|J:07020202 02120C|K:11121418 141211|L:10101010 10101F|M:111B1515 111111|N:11111915 131111|"
    "O:0E111111 11110E|P:1E11111E 101010|Q:0E111111 15120D|R:1E11111E 141211|S:0F10100E 01011E|T:1F040404 040404|"
    "U:11111111 11110E|V:11111111 110A04|W:11111115 15150A|X:11110A04 0A1111|Y:1111110A 040404|Z:1F010204 08101F|"
    "a:00000E01 0F110F|b:10101619 11111E|c:00000E10 10110E|d:01010D13 11110F|e:00000E11 1F100E|f:0609081C 080808|"
    "g:000F1111 0F010E|h:10101619 111111|i:04000C04 04040E|j:02000602 02120C|k:10101214 181412|l:0C040404 04040E|"
    "m:00001A15 151111|n:00001619 111111|o:00000E11 11110E|p:00001E11 1E1010|q:00000D13 0F0101|r:00001619 101010|"
    "s:00000E10 0E011E|t:08081C08 080906|u:00001111 11130D|v:00001111 110A04|w:00001111 15150A|x:0000110A 040A11|"
    "y:00001111 0F010E|z:00001F02 04081F|.:00000000 000C0C|,:00000000 0C0408|-:0000001F 000000|/:00010204 081000|"
    "(:02040808 080402|):08040202 020408|+:0004041F 040400|%:18190204 081303|_:00000000 00001F|=:00001F00 1F0000"
)
# a colon divides the entries above, so its own letter stands here
FONT: dict[str, bytes] = {":": bytes.fromhex("000C0C000C0C00")} | {
    entry[0]: bytes.fromhex(entry[2:].replace(" ", "")) for entry in _LETTERS.split("|")
}
ROWS, COLUMNS = 7, 5


class Raster:
    """``width`` x ``height`` pixels, white at first; (0, 0) is the upper left corner; what lies outside is not drawn."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.rows = [bytearray(b"\xff" * (3 * width)) for _ in range(height)]

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """The rectangle [left, right) x [top, bottom)."""
        left, right = max(0, left), min(self.width, right)
        if left >= right:
            return
        piece = bytes(colour) * (right - left)
        for row in self.rows[max(0, top) : max(0, bottom)]:
            row[3 * left : 3 * right] = piece

    def text(self, left: int, top: int, words: str, colour: Colour, size: int = 2) -> None:
        """Words in letters of 5 x 7 dots, each ``size`` pixels wide and high; an unknown letter is a box."""
        for place, letter in enumerate(words):
            if letter == " ":
                continue
            for down, bits in enumerate(FONT.get(letter, b"\x1f\x11\x11\x11\x11\x11\x1f")):
                for across in range(COLUMNS):
                    if bits >> (COLUMNS - 1 - across) & 1:
                        x, y = left + (place * (COLUMNS + 1) + across) * size, top + down * size
                        self.fill(x, y, x + size, y + size, colour)

    def png(self) -> bytes:
        """The picture as a PNG file: 8 bits a channel, no filter."""
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        body = zlib.compress(b"".join(b"\0" + row for row in self.rows), 9)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def text_width(words: str, size: int = 2) -> int:
    """Pixels that ``Raster.text`` takes for the words."""
    return len(words) * (COLUMNS + 1) * size


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
