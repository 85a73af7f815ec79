"""The names that outside code is written against."""

import predictbench_assets.experiments


def test_the_interface_hands_out_these_names() -> None:
    assert predictbench_assets.experiments.__all__ == [
        "Experiment",
        "ExperimentResult",
        "ExperimentSkip",
        "Market",
        "MarketPrice",
        "OrderBook",
        "PipelineContext",
        "RetriableError",
        "RunMetadata",
        "SettledForecast",
        "SettledMarket",
        "Usage",
    ]
    assert all(hasattr(predictbench_assets.experiments, name) for name in predictbench_assets.experiments.__all__)
