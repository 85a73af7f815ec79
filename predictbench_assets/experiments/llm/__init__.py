"""Language models as forecasters: the prompts, the typed answers, and the clients that one run opens once.

What a call may cost and that it is made once belong in `model_calls`; what is found about a market in `research`. The
clients' library is imported when such an experiment is opened, and not before.
"""
