"""Forecasters outside of this program: servers that are asked over HTTP, and files that are handed in, with receipts.

How a day's questions are given to them is in `dataset/`, the commands in `cli/`. A forecaster that runs inside of this
program does not belong here.
"""
