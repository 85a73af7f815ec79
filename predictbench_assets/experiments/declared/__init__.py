"""Declared experiments: tables of `experiments.toml`, read and checked, each made into an experiment.

A kind's own table belongs beside its experiment (a language model's in `llm/`, and so on); what all tables share, how
they are found in the file, and how their mistakes are told belong here. Nothing here forecasts, or calls a provider.
"""
