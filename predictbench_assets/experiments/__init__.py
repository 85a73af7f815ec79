"""Experiments: the protocol that a forecaster implements, the registry that finds them, the runner that runs them."""
