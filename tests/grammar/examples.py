"""Reads the files of examples beside it; each is lines in two sections, Policies and Selectors."""

from pathlib import Path

FOLDER = Path(__file__).parent


def example_lines(name: str, section: str) -> list[str]:
    """The lines of one section, without empty lines and comments."""
    _, _, rest = (FOLDER / name).read_text().partition(f"# {section}\n")
    lines = []
    for line in rest.splitlines():
        if line.startswith(("# Policies", "# Selectors")):
            break
        if line and not (line.startswith("# ") and "->" not in line):
            lines.append(line)
    return lines


def example_pairs(name: str, section: str) -> list[tuple[str, str]]:
    """The lines of one section as what stands before and behind their arrow."""
    pairs = [line.partition("->") for line in example_lines(name, section)]
    return [(written.strip(), canonical.strip()) for written, _, canonical in pairs]
