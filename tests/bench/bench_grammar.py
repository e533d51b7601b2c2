"""How many statements and selectors one core reads in a second, and that length costs linear time.

`python tests/bench/bench_grammar.py` prints each figure beside its budget and its floor: what
pyparsing alone takes for one token of the same text. Every text is read for the first time, so no
remembered one helps. Processor time of the best of several rounds counts: the machine may be busy with other things.
"""

import sys
import time
from collections.abc import Callable

from pyparsing import Regex

from grammar import compile_selector, parse_policy, parse_selector
from tests.bench.figure import Figure, Floor, record

ROUNDS = 5
STATEMENTS_PER_SECOND = 8_000
SELECTORS_PER_SECOND = 5_000
GROWTH_MAX = 1.5
"""Time for each character of a text eight times as long, or as deep: 1 is linear."""

STATEMENTS = (
    "allow tcp from label access=backend-{} to port 4001",
    "allow udp from namespace ns-{} to port 53",
    "deny tcp from cidr 10.0.0.0/8,192.168.0.0/16 to port {}",
    "allow tcp from namespace prod label app=web-{} to port 80,443,8000:8080,http",
    "allow from selector (app == 'web-{}' && has(tier))",
)
SELECTORS = (
    "app == 'web-{}'",
    "has(tier-{}) && env != 'dev'",
    "tier in {{'front', 'back-{}'}} || !has(debug)",
    "(app == 'web-{}' || app starts with 'api') && has(owner)",
)


class Texts:
    """Texts made of templates, no two the same for as long as it is asked."""

    def __init__(self, templates: tuple[str, ...]) -> None:
        self._templates = templates
        self._count = 0

    def next(self, count: int) -> list[str]:
        """So many new texts, the templates in turn."""
        self._count += count
        return [
            self._templates[number % len(self._templates)].format(number + 1)
            for number in range(self._count - count, self._count)
        ]


def fastest(work: Callable[[], object]) -> float:
    """The seconds of the best round."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def rate(read: Callable[[str], object], texts: Texts, count: int = 2000) -> float:
    """Texts read in a second, each for the first time."""

    def work(batch: list[str]) -> None:
        for text in batch:
            read(text)

    batches = [texts.next(count) for _ in range(ROUNDS)]
    return count / fastest(lambda: work(batches.pop()))


def growth(read: Callable[[str], object], make: Callable[[int], str], size: int) -> float:
    """How much more a character costs in a text made eight times as large."""

    def cost(size: int) -> float:
        texts = [make(size) + " " * extra for extra in range(ROUNDS)]
        return fastest(lambda: read(texts.pop())) / len(make(size))

    return cost(size * 8) / cost(size)


def show(name: str, value: float, unit: str, budget: float, *, at_least: bool) -> bool:
    """Prints a figure beside its budget; whether it is within it."""
    is_within = value >= budget if at_least else value <= budget
    bound = "at least" if at_least else "at most"
    verdict = "ok" if is_within else "MISSED"
    print(f"{name:42} {value:>10,.1f} {unit:16} {bound} {budget:,.1f}  {verdict}")
    return is_within


def main() -> int:
    """Prints every figure; 1 if one of them is outside its budget."""
    one_token = Regex(r".*")
    floor = rate(one_token.parse_string, Texts(STATEMENTS))
    print(f"{'floor: one token by pyparsing':42} {floor:>10,.1f} texts/s")
    results = []
    for name, parse, texts, unit, wanted in (
        (
            "statements, one in each policy",
            parse_policy,
            STATEMENTS,
            "statements",
            STATEMENTS_PER_SECOND,
        ),
        (
            "the example of every document",
            parse_policy,
            STATEMENTS[:1],
            "statements",
            STATEMENTS_PER_SECOND,
        ),
        ("selectors", parse_selector, SELECTORS, "selectors", SELECTORS_PER_SECOND),
    ):
        value = rate(parse, Texts(texts))
        results.append(show(name, value, f"{unit}/s", wanted, at_least=True))
        beside = Floor("one token by pyparsing", floor)
        record(Figure(name, value, 0, beside, unit="/s", goal=wanted, better="more"))
    shapes: list[tuple[str, Callable[[str], object], Callable[[int], str], int]] = [
        ("length of a policy", parse_policy, lambda size: "allow tcp to port 80\n" * size, 100),
        ("length of a chain", parse_selector, lambda size: "has(a) || " * size + "b == 'c'", 100),
        ("length of a set", parse_selector, lambda size: "a in {" + "'b', " * size + "}", 500),
        ("nesting of parentheses", parse_selector, nested, 12),
        ("length of what is refused", refuse, lambda size: "allow tcp " + "(" * size, 2000),
    ]
    results += [
        show(f"growth with {name}", growth(read, make, size), "x", GROWTH_MAX, at_least=False)
        for name, read, make, size in shapes
    ]
    test = compile_selector(parse_selector("app == 'web' && (has(tier) || env in {'a', 'b'})"))
    labels = [{"app": "web", "env": str(number)} for number in range(10_000)]
    each = fastest(lambda: [test(one) for one in labels]) / len(labels)
    print(f"{'a compiled selector on one set of labels':42} {each * 1e9:>10,.1f} ns")
    return 0 if all(results) else 1


def nested(depth: int) -> str:
    """A selector with so many parentheses inside each other, and something to do in each."""
    text = "has(a)"
    for _ in range(depth):
        text = f"has(b) || has(c) && !({text} || has(d))"
    return text


def refuse(text: str) -> None:
    """Reads a policy that cannot be read."""
    try:
        parse_policy(text)
    except ValueError:
        return
    raise AssertionError("the text was to be refused")


if __name__ == "__main__":
    sys.exit(main())
