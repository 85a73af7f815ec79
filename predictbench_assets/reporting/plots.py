"""Pictures for the metadata of assets. Small: they live in Dagster's event log.

Drawn with Pillow: a plotting library takes longer to load than a whole run of small experiments.
"""

import base64
import io
from collections.abc import Sequence

_SIDE = 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 30, 14, 44
_OVERSAMPLING = 2  # drawn larger and scaled down, which smooths the edges
_DOT = 2.2
_INK, _GRID, _POINT = (60, 60, 60), (222, 222, 222), (31, 95, 191, 110)


def forecasts_against_market(pairs: Sequence[tuple[float, float]], title: str) -> bytes:
    """A PNG of forecasts (second of each pair) against the market's prices (first); both in [0, 1].

    Points on the diagonal agree with the market; the further off it, the bolder the forecaster.
    """
    # Imported here, so that nothing that draws no picture pays for it.
    from PIL import Image, ImageDraw, ImageFont

    scale = _OVERSAMPLING
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    image = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(image, "RGBA")
    font = ImageFont.load_default(11 * scale)

    def at(price: float, forecast: float) -> tuple[float, float]:
        return (_LEFT + price * _SIDE) * scale, (_TOP + (1 - forecast) * _SIDE) * scale

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([at(tick, 0), at(tick, 1)], fill=_GRID, width=scale)
        draw.line([at(0, tick), at(1, tick)], fill=_GRID, width=scale)
        across, down = at(tick, 0)
        draw.text((across, down + 5 * scale), f"{tick:g}", fill=_INK, font=font, anchor="ma")
        across, down = at(0, tick)
        draw.text((across - 6 * scale, down), f"{tick:g}", fill=_INK, font=font, anchor="rm")
    draw.line([at(0, 0), at(1, 1)], fill=_INK, width=scale)
    radius = _DOT * scale
    for across, down in (at(price, forecast) for price, forecast in pairs):
        draw.ellipse((across - radius, down - radius, across + radius, down + radius), fill=_POINT)
    draw.text((width * scale / 2, 8 * scale), f"{title}, {len(pairs):,} markets", fill=_INK, font=font, anchor="ma")
    middle = (_LEFT + _SIDE / 2) * scale
    draw.text((middle, (height - 6) * scale), "market's price", fill=_INK, font=font, anchor="md")
    draw.text((4 * scale, _TOP * scale - 6 * scale), "forecast", fill=_INK, font=font, anchor="ls")
    buffer = io.BytesIO()
    image.reduce(scale).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def as_markdown_image(png: bytes, alternative: str) -> str:
    """The picture as a line of Markdown that holds it whole."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
