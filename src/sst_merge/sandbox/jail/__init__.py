"""What runs inside the sandbox's own interpreter: standard library only, imported as the top-level package ``jail``.

``launch`` unshares namespaces and keeps the clock; its child is process 1 of the jail, the checker, which runs the
tests and decides; the checker's child, the candidate, runs the program. The candidate never sees the tests, and the
checker never runs the program: only plain data passes between them.
"""

__all__: list[str] = []
