"""Suite → how its documents are made."""

from collections.abc import Mapping

from . import harmful
from .docs import Builder

__all__ = ["BUILDERS"]

BUILDERS: Mapping[str, Builder] = {
    "beavertails": harmful.beavertails,
    "advbench": harmful.advbench,
    "harmbench": harmful.harmbench,
    "jailbreakbench": harmful.jailbreakbench,
    "do_not_answer": harmful.do_not_answer,
    "xstest_safe": lambda read, _seed: harmful.xstest(read, "safe"),
    "xstest_unsafe": lambda read, _seed: harmful.xstest(read, "unsafe"),
}
