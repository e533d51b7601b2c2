"""From the flat pieces of a selector expression to its tree.

In: what the grammar read from left to right: parentheses and negations, operations, ``&&`` and
``||``.  Out: the canonical tree, or the error of a parenthesis without its partner.  A stack stands
for the open parentheses, so that no depth of nesting costs more than its length.
"""

from enum import Enum, auto
from typing import NamedTuple

from grammar.errors import GrammarError
from grammar.lexical import Expectation
from grammar.nodes import And, Not, Or, Selector, Span

DEPTH_MAX = 100
"""Parentheses inside each other.  Far beyond what people write; keeps recursion over trees safe."""

CHAIN_JOINTS = ("'&&'", "'||'")


class Kind(Enum):
    """What a piece of a chain is."""

    BEFORE = auto()
    """``!`` and ``(`` in any number, with blanks."""
    OPERATION = auto()
    AFTER = auto()
    """``)`` in any number, with blanks."""
    AND = auto()
    OR = auto()
    END = auto()
    """Where the chain stops, by itself or because something else follows."""


class Piece(NamedTuple):
    """A piece of a chain and the offset where it begins; only an OPERATION has one."""

    kind: Kind
    at: int
    text: str
    operation: Selector | None = None


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

    def add(self, piece: Piece) -> None:
        if piece.operation is not None:
            self._groups[-1].add(piece.operation, negated=self._negated)
            self._negated = False
        elif piece.kind is Kind.BEFORE:
            self._before(piece)
        elif piece.kind is Kind.AFTER:
            self._after(piece)
        else:
            self._join(piece)

    def _before(self, piece: Piece) -> None:
        for at, char in enumerate(piece.text, start=piece.at):
            if char == "!":
                self._negated = not self._negated
            elif char == "(":
                self._open(at)

    def _open(self, at: int) -> None:
        if len(self._groups) > DEPTH_MAX + (self._enclosure is Enclosure.PARENTHESES):
            raise GrammarError(
                self._text,
                Span(at, at + 1),
                message=f"more than {DEPTH_MAX} parentheses stand inside each other",
            )
        self._groups.append(_Group(at, negated=self._negated))
        self._negated = False

    def _after(self, piece: Piece) -> None:
        for at, char in enumerate(piece.text, start=piece.at):
            if char == ")":
                self._close(at)

    def _close(self, at: int) -> None:
        if len(self._groups) == 1:
            raise GrammarError(self._text, Span(at, at + 1), message="this ')' closes nothing")
        group = self._groups.pop()
        self._groups[-1].add(group.close(), negated=group.negated)

    def _join(self, piece: Piece) -> None:
        if self._enclosure is Enclosure.PARENTHESES and len(self._groups) == 1:
            joint = piece.text.rstrip()
            raise GrammarError(
                self._text,
                Span(piece.at, piece.at + len(joint)),
                message=f"the parenthesis after 'selector' closes before this '{joint}'",
                hint="put the whole expression into one pair of parentheses",
            )
        if piece.kind is Kind.OR:
            self._groups[-1].next_alternative()

    def finish(self, end: Piece, expectation: Expectation) -> Selector:
        if len(self._groups) == 1:
            return self._groups[0].close()
        if end.at < len(self._text):
            raise expectation.unmet(self._text, end.at, (*CHAIN_JOINTS, "')'"))
        at = self._groups[-1].opened_at
        raise GrammarError(self._text, Span(at, at + 1), message="this '(' is never closed")


def plant(
    text: str, pieces: list[Piece], enclosure: Enclosure, expectation: Expectation
) -> Selector:
    """The tree of a whole chain, whose last piece is its END.

    Raises:
        GrammarError: a parenthesis has no partner, or too many stand inside each other.
    """
    tree = _Tree(text, enclosure)
    for piece in pieces[:-1]:
        tree.add(piece)
    return tree.finish(pieces[-1], expectation)
