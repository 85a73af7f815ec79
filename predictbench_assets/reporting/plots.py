"""Pictures for the metadata of assets. Small: they live in Dagster's event log.

Drawn with Pillow: a plotting library takes longer to load than a whole run of small experiments.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import starmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 30, 14, 44
_OVERSAMPLING = 2  # drawn larger and scaled down, which smooths the edges
_DOT = 2.2
_INK, _GRID, _WHITE = 60, 222, 255
_POINT, _OPAQUE = (31, 95, 191), 110
_FONT_SIZE, _TITLE_AT = 11, 8
_SHADES, _DENSITIES = 16, 16
"""The colours of the palette: shades of the paper, each below so many densities of points."""


def forecasts_against_market(pairs: Sequence[tuple[float, float]], title: str) -> bytes:
    """A PNG of forecasts (second of each pair) against the market's prices (first); both in [0, 1].

    Points on the diagonal agree with the market; the further off it, the bolder the forecaster.
    """
    # Imported here, so that nothing that draws no picture pays for it.
    from PIL import Image, ImageChops, ImageDraw, ImageFont

    scale = _OVERSAMPLING
    paper, points = _frame().copy(), Image.new("L", _frame().size)
    head = Image.new("L", (paper.width * scale, (_TOP - _TITLE_AT) * scale), _WHITE)
    text, font = f"{title}, {len(pairs):,} markets", ImageFont.load_default(_FONT_SIZE * scale)
    ImageDraw.Draw(head).text((head.width / 2, 0), text, fill=_INK, font=font, anchor="ma")
    paper.paste(ImageChops.darker(head.reduce(scale), paper.crop((0, _TITLE_AT, paper.width, _TOP))), (0, _TITLE_AT))
    # Where prices are alike, points are: many markets make few dots.
    places = Counter([(round(across), round(down)) for across, down in starmap(_at, pairs)])
    for (across, down), count in places.items():
        (column, right), (row, below) = divmod(across, scale), divmod(down, scale)
        dot = _dot(right, below, count)
        points.paste(255, (column - dot.width // 2, row - dot.height // 2), dot)
    # With a palette instead of colours it takes half the time, and less than half the room in the event log.
    shades = paper.point([round(value / 255 * (_SHADES - 1)) * _DENSITIES for value in range(256)])
    densities = points.point([round(value / 255 * (_DENSITIES - 1)) for value in range(256)])
    picture = ImageChops.add(shades, densities)
    picture.putpalette(_palette())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


@cache
def _frame() -> "Image.Image":
    """What all of these pictures have, in grey: the axes with their names, and the diagonal."""
    from PIL import Image, ImageDraw, ImageFont

    scale = _OVERSAMPLING
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    image = Image.new("L", (width * scale, height * scale), _WHITE)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_FONT_SIZE * scale)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([_at(tick, 0), _at(tick, 1)], fill=_GRID, width=scale)
        draw.line([_at(0, tick), _at(1, tick)], fill=_GRID, width=scale)
        across, down = _at(tick, 0)
        draw.text((across, down + 5 * scale), f"{tick:g}", fill=_INK, font=font, anchor="ma")
        across, down = _at(0, tick)
        draw.text((across - 6 * scale, down), f"{tick:g}", fill=_INK, font=font, anchor="rm")
    draw.line([_at(0, 0), _at(1, 1)], fill=_INK, width=scale)
    middle = (_LEFT + _SIDE / 2) * scale
    draw.text((middle, (height - 6) * scale), "market's price", fill=_INK, font=font, anchor="md")
    draw.text((4 * scale, _TOP * scale - 6 * scale), "forecast", fill=_INK, font=font, anchor="ls")
    return image.reduce(scale)


@lru_cache(maxsize=1_000)
def _dot(right: int, below: int, count: int) -> "Image.Image":
    """How much of each pixel so many points at one place cover, `right` and `below` a pixel's corner."""
    from PIL import Image, ImageDraw

    if count > 1:
        return _dot(right, below, 1).point([round(255 * (1 - (1 - one / 255) ** count)) for one in range(256)])
    scale, fine = _OVERSAMPLING, 8
    side = 2 * (int(_DOT) + 2)
    image = Image.new("L", (side * fine, side * fine))
    across, down = ((side / 2 + offset / scale) * fine for offset in (right, below))
    reach = _DOT * fine
    box = (across - reach, down - reach, across + reach, down + reach)
    ImageDraw.Draw(image).ellipse(box, fill=_OPAQUE)
    return image.reduce(fine)


@cache
def _palette() -> list[int]:
    """Red, green and blue of each colour."""
    return [
        round(shade / (_SHADES - 1) * 255 * (1 - cover) + colour * cover)
        for shade in range(_SHADES)
        for cover in (density / (_DENSITIES - 1) for density in range(_DENSITIES))
        for colour in _POINT
    ]


def _at(price: float, forecast: float) -> tuple[float, float]:
    """Across and down, in the larger pixels."""
    return (_LEFT + price * _SIDE) * _OVERSAMPLING, (_TOP + (1 - forecast) * _SIDE) * _OVERSAMPLING


def as_markdown_image(png: bytes, alternative: str) -> str:
    """The picture as a line of Markdown that holds it whole."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
