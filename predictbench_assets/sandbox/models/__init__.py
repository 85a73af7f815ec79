"""The stand-in model server: the wires of model providers and search services, answered with no key and at no cost.

`behaviours.py` has what each model name does, `answers.py` the answers that fit a schema, `openai_wire.py` and its
siblings the JSON of each provider, `counts.py` what reached the server, `server.py` the HTTP application. The
exchange's sandbox stays one room up, and what calls a model is in `experiments/`.
"""
