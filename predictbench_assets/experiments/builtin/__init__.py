"""The experiments that come with Predictbench: the baseline, its transforms, and the negative controls."""
