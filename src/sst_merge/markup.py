"""Text of others in a target with a markup of its own: one function per target that makes it print as it is.

The terminal needs :func:`.texts.visible` alone; HTML is escaped by its templates, pictures by :mod:`.reporting.style`.
"""

import html
import json
import re

from .texts import visible

__all__ = ["csv_field", "latex_text", "markdown_code", "markdown_text", "plotly_text", "script_json"]

# Always markup in GitHub's Markdown; brackets, underscores and angle brackets are it only in some places.
_MARKDOWN = re.compile(
    r"[\\`*~|$]"
    r"|\](?=[\[(:])"  # the end of a link's text, or of a definition
    r"|(?<![^\W_])_|_(?![^\W_])"  # between letters or digits an underscore is a letter
    r"|<(?=[A-Za-z/!?])"
    r"|&(?=#?\w)"
    r"|(?<=:)/(?=/)|(?<=www)\.|@(?=[A-Za-z])"  # addresses become links by themselves
    r"|#$",  # the end of a heading
    re.IGNORECASE,
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "κ": r"$\kappa$",
    "Δ": r"$\Delta$",
    "°": r"$^\circ$",
    "∞": r"$\infty$",
}
_MINUS = re.compile(r"(?<![\w.,)-])-(?=\d)")
# What spreadsheets take for the beginning of a formula, in full width too.
_FORMULA = tuple("=+-@＝＋－＠")
_LONGEST_NUMBER = 100
_BEFORE_FORMULA = "'" + "".join(map(chr, range(33)))  # control characters, white space, and our own mark
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?\s*(%|×|s|MiB|GiB)?(\s*\[[-+−\d., ∞]*\])?", re.IGNORECASE)


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def markdown_text(text: str) -> str:
    r"""Text on one line that GitHub's Markdown prints as it is; white space and line breaks are one space.

    Example:
        >>> print(markdown_text("a|b <img> [x](y) 0.5 [0.4, 0.6] task_arithmetic"))
        a\|b \<img> [x\](y) 0.5 [0.4, 0.6] task_arithmetic
    """
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", _one_line(text))


def markdown_code(text: str) -> str:
    """Text as a code span, whatever backticks it has.

    Example:
        >>> print(markdown_code("ties"), markdown_code("a`b"))
        `ties` `` a`b ``
    """
    shown = _one_line(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    # Spaces keep backticks at the ends apart from the fence; Markdown takes one off each side.
    return f"{fence} {shown} {fence}" if longest or not shown.strip() else f"{fence}{shown}{fence}"


def csv_field(value: object) -> object:
    """A field of a CSV file that no spreadsheet takes for a formula; what is not text stays.

    Text that begins like a formula and is no number gets an apostrophe in front, which spreadsheets do not show. All
    else stays as it is, so that different texts stay different.

    Example:
        >>> csv_field("=1+1"), csv_field("-0.5 [-0.7, ∞]"), csv_field(-0.5)
        ("'=1+1", '-0.5 [-0.7, ∞]', -0.5)
    """
    # Of a long run of spaces the pattern would try every division.
    if not isinstance(value, str) or (len(value) <= _LONGEST_NUMBER and _NUMBER.fullmatch(value)):
        return value
    begins = value.startswith(("\t", "\r")) or value.lstrip(_BEFORE_FORMULA).startswith(_FORMULA)
    return f"'{value}" if begins else value


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is: special characters escaped, a minus sign where a number has a hyphen."""
    signed = _MINUS.sub("−", _one_line(text))
    return "".join(_LATEX.get(character, character) for character in signed)


def plotly_text(text: str) -> str:
    """Text on one line that Plotly shows as it is; of itself it reads tags and entities.

    Example:
        >>> print(plotly_text("a<b> & <a href='x'>"))
        a&lt;b&gt; &amp; &lt;a href='x'&gt;
    """
    return html.escape(_one_line(text), quote=False)


def script_json(value: object) -> str:
    r"""Plain values as JSON within a page's <script>: nothing in it ends the script.

    Example:
        >>> print(script_json(["</script>"]))
        ["\u003c/script\u003e"]
    """
    # Everything beyond ASCII is an escape already.
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
