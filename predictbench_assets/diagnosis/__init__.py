"""Checks of `predictbench doctor`: each part of a deployment, and what mends it.

Nothing is changed here, and nothing else imports it but the command.
"""
