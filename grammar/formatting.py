"""The canonical form of a policy text as a person keeps it: with its lines and its comments.

In: a policy text.  Out: the same policy, every statement as :mod:`grammar.printer` writes it, every
comment on the line of its statement.  Applied again, it changes nothing.
"""

from grammar.lines import split_lines
from grammar.printer import print_statement
from grammar.statement import parse_policy


def format_policy(text: str) -> str:
    """The text in canonical form, without a line end after its last line.

    A text with something on several lines gets a line for each statement, and keeps one blank line
    where it had any between two others; a comment stands behind the last statement of its line.
    A text that is all on one line stays on one line, its statements joined by ``;``.

    Raises:
        PolicyErrors: as :func:`~grammar.statement.parse_policy`.
    """
    statements = iter(parse_policy(text).statements)
    paragraphs: list[list[str]] = [[]]
    line_count = 0
    for line in split_lines(text):
        shown = [print_statement(next(statements)) for _ in line.statements]
        if line.comment is not None:
            shown[-1:] = [f"{shown[-1]}  {line.comment}" if shown else line.comment]
        if shown:
            paragraphs[-1] += shown
            line_count += 1
        elif paragraphs[-1]:
            paragraphs.append([])
    if line_count < 2:
        return "; ".join(paragraphs[0])
    return "\n\n".join("\n".join(paragraph) for paragraph in paragraphs if paragraph)
