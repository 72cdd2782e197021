"""From what a model wrote to the program it means: continuations of a prompt, and answers in a chat."""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from itertools import chain

__all__ = ["STOP_SEQUENCES", "program_from_answer", "program_from_continuation"]

# A base model goes on after its function; where one of these begins, the function has ended (Chen et al. 2021).
STOP_SEQUENCES = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")

_FENCE = "```"
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(r"(?:def|class|import|from|async def) |@|[ \t]+\S")
# Prose behind code without a fence: how many lines may be taken off its end.
_MOST_TRIMMED = 100


def program_from_continuation(prompt: str, text: str) -> str:
    """The program of a model that goes on where the prompt ends.

    Args:
        prompt: ends inside the function, behind its docstring.
        text: what the model wrote.

    Returns:
        Prompt and continuation, up to the first stop sequence.
    """
    ends = [position for stop in STOP_SEQUENCES if (position := text.find(stop)) >= 0]
    return prompt + text[: min(ends, default=len(text))] + "\n"


def program_from_answer(prompt: str, entry_point: str, text: str, *, open_fence: bool = False) -> str:
    """The program of a model that answers in a chat: in a code block or bare, as a function or only its body.

    Of all readings the first is taken that parses and gives the function more than a docstring; what was written into
    the open code block comes first, then code that holds the whole function. Where none does, the first reading is
    returned as it is: it fails with its own error.

    Args:
        prompt: what the function is to be completed from; stays in front, for its imports and helpers.
        entry_point: name of the function.
        text: what the model wrote.
        open_fence: the answer was begun for the model, with the prompt in a code block that is still open.

    Returns:
        The program.
    """
    blocks = [match.group(1) for match in _BLOCK.finditer(text)]
    whole = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    blocks.sort(key=lambda block: whole.search(block) is None)
    if open_fence:
        blocks.insert(0, text.split(_FENCE, 1)[0])
    blocks.append(text.replace(_FENCE, ""))
    programs = (f"{prompt}\n{reading}\n" for reading in _readings(blocks, text))
    first = next(programs)
    return next((program for program in chain([first], programs) if _defines(program, entry_point)), first)


def _readings(blocks: list[str], text: str) -> Iterator[str]:
    for block in blocks:
        yield block
        # A body at the margin.
        yield textwrap.indent(textwrap.dedent(block), "    ")
    # Code between sentences, without a fence.
    lines = text.split("\n")
    start = next((number for number, line in enumerate(lines) if _CODE_LINE.match(line)), len(lines))
    for end in range(len(lines), max(start, len(lines) - _MOST_TRIMMED), -1):
        yield "\n".join(lines[start:end])


def _defines(program: str, entry_point: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
    # What hostile text can make the parser raise.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry_point]
    return bool(found) and not all(map(_does_nothing, found[-1].body))


def _does_nothing(statement: ast.stmt) -> bool:
    # A docstring, an ellipsis, or a word of a sentence that happens to parse.
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.Name)
