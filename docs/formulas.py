"""Formulas of the pages become MathML, which browsers draw alone, in a font for mathematics that comes with the site."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import ziamath
from fontTools import subset
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
TAGS = "mi|mn|msub|msup|msubsup|mfrac|mover|msqrt"  # of what stands beside the name of a function
NAME = "<mi>(?:log|exp|sin|cos|tan|atan|det|min|max)</mi>"
THIN = '<mspace width="0.1667em"/>'
OPENED = r"(<mo[^>]*>(?:&#x00028;|\[|&#x0003D;|&#x02264;|&#x02265;|&#x0002C;)</mo>)"
DOUBLE = {"E": "𝔼", "R": "ℝ", "N": "ℕ", "P": "ℙ"}
FONT = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"  # SIL Open Font License 1.1
SLANTED = "".join(
    map(chr, [0x210E, *range(0x1D434, 0x1D468), *range(0x1D6FC, 0x1D71C)])
)  # what browsers make of x and α
drawn: set[str] = set()  # the letters of all formulas so far


def mathml(latex: str, display: bool) -> str:
    """A formula as MathML, with TeX's spaces around names of functions, and with signs that are no differences."""
    found = convert(latex, display="block" if display else "inline")
    found = re.sub(rf"({NAME})(?=<(?:{TAGS})\b)", rf"\1{THIN}", found)
    found = re.sub(rf"(</(?:{TAGS})>|<mo>&#x02207;</mo>)(?={NAME})", rf"\1{THIN}", found)
    found = re.sub(rf"{OPENED}<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>', found)
    found = found.replace("<mo>&#x0002F;</mo>", '<mo lspace="0.06em" rspace="0.06em">/</mo>')
    found = found.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")
    found = found.replace("<mo>&#x02016;</mo>", '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>')
    return re.sub(r'<mi mathvariant="double-struck">(\w)</mi>', lambda m: f"<mi>{DOUBLE[m[1]]}</mi>", found)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""

    def replaced(found: re.Match[str]) -> str:
        display = found[2] == "["
        formula = mathml(html.unescape(found[3]), display)
        drawn.update(html.unescape(re.sub(r"<[^>]+>", "", formula)))
        return f'<div class="formula">{formula}</div>' if display else formula

    return FORMULA.sub(replaced, content)


def on_post_build(config: Any) -> None:
    """Write the part of the font that the formulas need, about 50 kB."""
    font = TTFont(FONT)
    options = subset.Options(layout_features=["*"], flavor="woff")
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(drawn) + SLANTED)
    subsetter.subset(font)
    subset.save_font(font, str(Path(config.site_dir) / "math.woff"), options)
