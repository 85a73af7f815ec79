"""The picture of an experiment's forecasts against the market's prices."""

import io

import pytest
from PIL import Image

from predictbench_assets.reporting.plots import forecasts_against_market

WHITE = (255, 255, 255)


def picture(*pairs: tuple[float, float], title: str = "an_experiment") -> Image.Image:
    return Image.open(io.BytesIO(forecasts_against_market(pairs, title))).convert("RGB")


def pixel(image: Image.Image, price: float, forecast: float) -> tuple[int, int, int]:
    """The colour where a forecast is shown: the square of the chart is 300 pixels wide, 52 from the left, 30 down."""
    found = image.getpixel((round(52 + 300 * price), round(30 + 300 * (1 - forecast))))
    assert isinstance(found, tuple)
    return found[0], found[1], found[2]


@pytest.mark.parametrize("pair", [(0.1, 0.9), (0.37, 0.61), (0.8, 0.33)])
def test_each_forecast_is_a_blue_point_at_its_place_and_many_at_one_place_a_darker_one(
    pair: tuple[float, float],
) -> None:
    nothing, one, many = (pixel(picture(*count * [pair]), *pair) for count in (0, 1, 5))
    assert nothing == WHITE
    assert one[2] > one[0] + 60
    assert sum(many) < sum(one) - 100
    assert many[2] > many[0] + 100
    elsewhere = picture(*5 * [pair]), picture()
    assert [pixel(image, 0.55, 0.15) for image in elsewhere] == [WHITE, WHITE]


def test_what_is_beside_the_points_is_the_same_and_only_the_title_differs() -> None:
    ordinary, other = picture(), picture(title="something_else")
    title, chart = (0, 0, ordinary.width, 28), (0, 30, ordinary.width, ordinary.height)
    assert ordinary.crop(title).tobytes() != other.crop(title).tobytes()
    assert ordinary.crop(chart).tobytes() == other.crop(chart).tobytes()
    dark = [min(pixel(ordinary, at, at)) for at in (0.1, 0.4, 0.9)]
    assert max(dark) < 130, "the diagonal, on which a forecast agrees with the market"
    assert pixel(ordinary, 0.25, 0.6) != WHITE, "the grid"


def test_points_at_the_edges_and_of_a_large_day_are_shown_in_a_small_file() -> None:
    corners = picture((0, 1), (1, 0))
    assert {pixel(corners, 0, 1), pixel(corners, 1, 0)}.isdisjoint({pixel(picture(), 0, 1), pixel(picture(), 1, 0)})
    many = [(number / 2000, (number * 7 % 2000) / 2000) for number in range(2000)]
    assert len(forecasts_against_market(many, "a large day")) < 30_000
