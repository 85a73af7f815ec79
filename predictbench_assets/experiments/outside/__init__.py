"""Forecasters outside of this program: what they hand in as files, with receipts, and the forms that they write in.

How a day's questions are given to them is in `dataset/`, the commands in `cli/`. A forecaster that runs inside of this
program does not belong here.
"""
