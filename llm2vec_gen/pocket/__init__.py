"""The pocket: a closed world in plain Python, small enough that a language model learns all of it in minutes.

`world` is the front door: training pairs, held-out queries and evaluation sets, all from a fixed seed.
"""
