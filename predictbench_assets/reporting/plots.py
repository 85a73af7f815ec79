"""Pictures for the metadata of assets. Small: they live in Dagster's event log."""

import base64
import io
from collections.abc import Sequence


def forecasts_against_market(pairs: Sequence[tuple[float, float]], title: str) -> bytes:
    """A PNG of forecasts (second of each pair) against the market's prices (first); both in [0, 1].

    Points on the diagonal agree with the market; the further off it, the bolder the forecaster.
    """
    # Imported here: it takes longer to load than a small experiment takes to run.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), dpi=80)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="#999999", linewidth=1, zorder=1)
    if pairs:
        prices, forecasts = zip(*pairs, strict=True)
        axes.scatter(prices, forecasts, s=9, alpha=0.35, color="#1f5fbf", linewidths=0, zorder=2)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="market's price", ylabel="forecast")
    axes.set_title(f"{title}, {len(pairs):,} markets", fontsize=10)
    axes.set_aspect("equal")
    buffer = io.BytesIO()
    canvas.print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def as_markdown_image(png: bytes, alternative: str) -> str:
    """The picture as a line of Markdown that holds it whole."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
