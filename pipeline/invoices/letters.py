"""Texts in letters that a PDF's fonts have, as markup of reportlab's paragraphs.

The fonts that every reader of PDF has know Western European letters; any other text is set in DejaVu Sans, which ships
here: Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic. A letter that it lacks too is written as its number in
Unicode, `[U+6771]`, and the page says so. Lines that run from right to left are put in the order in which they are
read.
"""

import unicodedata
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from pipeline.deadletters.text import visible

_FONT: Final = "DejaVuSans"
#: Its letters are larger than those of Helvetica at the same size.
_SCALE: Final = 0.92
#: Directions, as Unicode's database names them, of letters that are read from right to left.
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL"})

#: What a page says where numbers stand for letters.
NOTE: Final = "[U+...]: letters that no font here has, by their numbers in Unicode. The HTML page has them."


def markup(text: str, size: float) -> str:
    """Return a text as markup, set at a size in points or at what looks alike."""
    plain = unicodedata.normalize("NFC", visible(text))
    if _is_western(plain):
        return escape(plain)
    return f'<font name="{_font()}" size="{size * _SCALE:g}">{escape(_ordered(_replaced(plain)))}</font>'


def lacks(text: str) -> bool:
    """Tell whether numbers stand for some of a text's letters."""
    plain = unicodedata.normalize("NFC", visible(text))
    return not _is_western(plain) and _replaced(plain) != plain


def _is_western(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _replaced(text: str) -> str:
    known = _covered()
    return "".join(
        "".join(letters) if is_known else f"[{' '.join(f'U+{ord(letter):04X}' for letter in letters)}]"
        for is_known, letters in groupby(text, lambda letter: ord(letter) in known)
    )


def _ordered(text: str) -> str:
    """Return a text with Arabic letters joined, in the order in which a line shows it (Unicode's annex 9)."""
    if _RIGHT_TO_LEFT.isdisjoint(map(unicodedata.bidirectional, text)):
        return text
    import arabic_reshaper
    from bidi.algorithm import get_display

    joined: str = arabic_reshaper.reshape(text)
    # Not all joined forms are in the font: then the letters stay as they are.
    return str(get_display(joined if all(ord(letter) in _covered() for letter in joined) else text))


@lru_cache(1)
def _font() -> str:
    pdfmetrics.registerFont(TTFont(_FONT, str(Path(__file__).parent / "fonts" / f"{_FONT}.ttf")))
    return _FONT


@lru_cache(1)
def _covered() -> frozenset[int]:
    font: Any = pdfmetrics.getFont(_font())
    return frozenset(font.face.charToGlyph)
