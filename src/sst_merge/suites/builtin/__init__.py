"""The built-in suites, one file for each set or family of suites: its rows, its documents, its scores, its declaration.

A new file here is found by itself (:mod:`..registry`). Files whose name begins with an underscore are helpers of one
suite.
"""
