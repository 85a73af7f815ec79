"""The picture in the metadata of an experiment."""

import io

from PIL import Image

from predictbench_assets.reporting.plots import as_markdown_image, forecasts_against_market


def blue_at(png: bytes, price: float, forecast: float) -> bool:
    """Whether there is a point, or half of one, where such a forecast belongs."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    red, _, blue = image.getpixel((round(52 + price * 300), round(30 + (1 - forecast) * 300)))  # type: ignore[misc]
    return blue - red > 40


def test_a_forecast_is_drawn_where_it_belongs() -> None:
    png = forecasts_against_market([(0.2, 0.9)], "bold")
    assert blue_at(png, 0.2, 0.9)
    assert not blue_at(png, 0.9, 0.2)
    assert not blue_at(forecasts_against_market([], "silent"), 0.2, 0.9)


def test_a_large_day_stays_a_small_picture() -> None:
    pairs = [((number % 997) / 996, (number % 991) / 990) for number in range(20_000)]
    assert len(forecasts_against_market(pairs, "many")) < 60_000


def test_the_picture_fits_into_a_line_of_markdown() -> None:
    assert as_markdown_image(b"\x89PNG", "one") == "![one](data:image/png;base64,iVBORw==)"
