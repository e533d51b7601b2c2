"""From the flat pieces of a selector expression to its tree.

In: what the grammar read from left to right: parentheses and negations, operations, ``&&`` and
``||``.  Out: the canonical tree, or the error of a parenthesis without its partner.  A stack stands
for the open parentheses, so that no depth of nesting costs more than its length.
"""

import re
from enum import Enum, auto
from typing import NamedTuple

from grammar.errors import GrammarError
from grammar.lexical import Expectation
from grammar.nodes import And, Not, Or, Selector, Span

DEPTH_MAX = 100
"""Parentheses inside each other.  Far beyond what people write; keeps recursion over trees safe."""

CHAIN_JOINTS = ("'&&'", "'||'")

_SYMBOL = re.compile(r"[!()]|&&|\|\|")


class Symbols(NamedTuple):
    """What stands before, between or after operations, with blanks: ``! ( ) && ||``."""

    text: str
    at: int


class Enclosure(Enum):
    """What a whole chain stands in."""

    NONE = auto()
    """Nothing: it is the whole text."""
    PARENTHESES = auto()
    """One pair that belongs to its surroundings, as in ``selector (...)``, and is among the pieces."""


class _Group:
    """An open parenthesis, or the whole chain, and what has been read in it so far."""

    def __init__(self, opened_at: int, *, negated: bool) -> None:
        self.opened_at = opened_at
        self.negated = negated
        self._alternatives: list[Selector] = []
        self._conjuncts: list[Selector] = []

    def add(self, operand: Selector, *, negated: bool) -> None:
        if negated:
            operand = operand.operand if isinstance(operand, Not) else Not(operand)
        if isinstance(operand, And):
            self._conjuncts.extend(operand.operands)
        else:
            self._conjuncts.append(operand)

    def next_alternative(self) -> None:
        conjuncts = self._conjuncts
        whole = conjuncts[0] if len(conjuncts) == 1 else And(tuple(conjuncts))
        if isinstance(whole, Or):
            self._alternatives.extend(whole.operands)
        else:
            self._alternatives.append(whole)
        self._conjuncts = []

    def close(self) -> Selector:
        self.next_alternative()
        alternatives = self._alternatives
        return alternatives[0] if len(alternatives) == 1 else Or(tuple(alternatives))


class _Tree:
    """The groups that are open, and whether an odd number of ``!`` waits for its operand."""

    def __init__(self, text: str, enclosure: Enclosure) -> None:
        self._text = text
        self._enclosure = enclosure
        self._groups = [_Group(0, negated=False)]
        self._negated = False

    def add_operation(self, operation: Selector) -> None:
        self._groups[-1].add(operation, negated=self._negated)
        self._negated = False

    def add_symbols(self, symbols: Symbols) -> None:
        for found in _SYMBOL.finditer(symbols.text):
            at = symbols.at + found.start()
            match found.group():
                case "!":
                    self._negated = not self._negated
                case "(":
                    self._open(at)
                case ")":
                    self._close(at)
                case joint:
                    self._join(at, joint)

    def _open(self, at: int) -> None:
        if len(self._groups) > DEPTH_MAX + (self._enclosure is Enclosure.PARENTHESES):
            raise GrammarError(
                self._text,
                Span(at, at + 1),
                message=f"more than {DEPTH_MAX} parentheses stand inside each other",
            )
        self._groups.append(_Group(at, negated=self._negated))
        self._negated = False

    def _close(self, at: int) -> None:
        if len(self._groups) == 1:
            raise GrammarError(self._text, Span(at, at + 1), message="this ')' closes nothing")
        group = self._groups.pop()
        self._groups[-1].add(group.close(), negated=group.negated)

    def _join(self, at: int, joint: str) -> None:
        if self._enclosure is Enclosure.PARENTHESES and len(self._groups) == 1:
            raise GrammarError(
                self._text,
                Span(at, at + len(joint)),
                message=f"the parenthesis after 'selector' closes before this '{joint}'",
                hint="put the whole expression into one pair of parentheses",
            )
        if joint == "||":
            self._groups[-1].next_alternative()

    def finish(self, end: int, expectation: Expectation) -> Selector:
        if len(self._groups) == 1:
            return self._groups[0].close()
        if end < len(self._text):
            raise expectation.unmet(self._text, end, (*CHAIN_JOINTS, "')'"))
        at = self._groups[-1].opened_at
        raise GrammarError(self._text, Span(at, at + 1), message="this '(' is never closed")


def plant(
    text: str,
    pieces: list[Symbols | Selector],
    enclosure: Enclosure,
    expectation: Expectation,
) -> Selector:
    """The tree of a whole chain: operations with symbols before, between and after all of them.

    Raises:
        GrammarError: a parenthesis has no partner, or too many stand inside each other.
    """
    tree = _Tree(text, enclosure)
    end = 0
    for piece in pieces:
        if isinstance(piece, Symbols):
            tree.add_symbols(piece)
            end = piece.at + len(piece.text)
        else:
            tree.add_operation(piece)
    return tree.finish(end, expectation)
