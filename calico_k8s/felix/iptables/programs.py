"""``iptables-restore`` and ``iptables-save`` of either backend and family.

In: restore text.  Out: done, or an :class:`~calico_k8s.errors.IptablesError` with the offending
line.  ``XTABLES_LOCKFILE`` of this process goes through to them.  What the text says is decided
in ``plan``.
"""

import re
import subprocess
from enum import StrEnum
from typing import Final

from calico_k8s.errors import IptablesError, LockHeld
from calico_k8s.felix.iptables.hashes import COMMENT_PREFIX, RuleHash, jump_hash
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import CHAIN_PREFIX, RuleText, TableName

DEFAULT_LOCK_TIMEOUT_S: Final = 10.0
PROGRAM_TIMEOUT_S: Final = 60.0
"""Over the lock's: a load of 10,000 rules takes well below a second."""

_RESOURCE_PROBLEM: Final = (
    4  # xtables, enum xtables_exittype: the lock, or a table changed meanwhile
)
_LOCK_WORDS: Final = "xtables lock"

_LINE = re.compile(r"line:? (\d+)")
_SAVED_RULE = re.compile(
    rf'^-A (\S+) (.*-m comment --comment "?{COMMENT_PREFIX}([\w-]+)"?.*)$', re.MULTILINE
)
_SAVED_JUMP = re.compile(r"^-A \S+ (-j cali-\S+)$", re.MULTILINE)
_COUNTED = re.compile(
    rf'^\[(\d+):\d+\] -A (\S+) (?:-m comment --comment "?{COMMENT_PREFIX}[\w-]+"? )?-j (?:DROP|RETURN)$',
    re.MULTILINE,
)
_VERSION = re.compile(r" v(\d+(?:\.\d+)+)")
_NOISE = re.compile(r"^(# Warning: .*|Try `.*|)$\n?", re.MULTILINE)


class Backend(StrEnum):
    """The two iptables of one machine: each sees only its own rules."""

    LEGACY = "legacy"
    NFT = "nft"


def program_name(backend: Backend, version: Version, verb: str) -> str:
    """``iptables-nft-save``, ``ip6tables-legacy-restore`` ..."""
    return f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-{verb}"


def restore(
    backend: Backend, version: Version, text: str, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
) -> None:
    """Write the tables of ``text``, each as one transaction, leaving what it does not name.

    Raises:
        LockHeld: the lock was not had in time.
        IptablesError: refused, with the line.
    """
    program = program_name(backend, version, "restore")
    wait = ("-w", str(max(1, round(lock_timeout_s))))
    done = _run((program, "--noflush", *wait), text, lock_timeout_s)
    if done.returncode:
        is_held = done.returncode == _RESOURCE_PROBLEM and _LOCK_WORDS in done.stderr
        kind = LockHeld if is_held else IptablesError
        raise kind(f"{program}: {_explain(done.stderr, text)}")


def program_version(backend: Backend) -> tuple[int, ...]:
    """The version of a backend's programs: ``(1, 8, 9)``.

    Raises:
        IptablesError: the program failed, or says none.
    """
    program = f"iptables-{backend}"
    done = _run((program, "--version"), "", 0)
    found = _VERSION.search(done.stdout)
    if found is None:
        raise IptablesError(f"{program} does not tell its version: {done.stdout.strip()!r}")
    return tuple(map(int, found[1].split(".")))


def save(
    backend: Backend,
    version: Version,
    table: TableName | None = None,
    *,
    counters: bool = False,
) -> str:
    """What the program prints of a table, or of all that are in use.

    Raises:
        IptablesError: the program failed.
    """
    program = program_name(backend, version, "save")
    choice = ("-t", table) if table else ()
    done = _run((program, *choice, *(("-c",) if counters else ())), "", 0)
    if done.returncode:
        raise IptablesError(f"{program}: {_NOISE.sub('', done.stderr).strip()}")
    return done.stdout


def counted_packets(backend: Backend, version: Version, table: TableName) -> dict[str, int]:
    """How many packets the rules without a match that end each chain of a table have met.

    Raises:
        IptablesError: the program failed.
    """
    found: dict[str, int] = {}
    for packets, chain in _COUNTED.findall(save(backend, version, table, counters=True)):
        found[chain] = found.get(chain, 0) + int(packets)
    return found


def try_rule(
    backend: Backend, version: Version, table: TableName, rule: RuleText, lock_timeout_s: float
) -> None:
    """Have the kernel take a rule, in a chain that is made for it and deleted after.

    Two transactions: of one, legacy's kernel is shown the end alone.

    Raises:
        IptablesError: the program or the kernel does not know what it asks or does.
    """
    name = f"{CHAIN_PREFIX}probe"
    steps = (f":{name} - [0:0]\n-A {name} {rule}", f"-F {name}\n-X {name}")
    lines = "".join(f"*{table}\n{step}\nCOMMIT\n" for step in steps)
    restore(backend, version, lines, lock_timeout_s)


def saved_texts(saved: str) -> dict[RuleHash, str]:
    """The text of each rule of ours in what ``iptables-save`` printed."""
    found = {RuleHash(rule[3]): rule[2] for rule in _SAVED_RULE.finditer(saved)}
    return found | {jump_hash(text): text for text in _SAVED_JUMP.findall(saved)}


def _run(
    command: tuple[str, ...], text: str, lock_timeout_s: float
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=lock_timeout_s + PROGRAM_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise IptablesError(f"{command[0]} was not found: install iptables 1.8") from error
    except subprocess.TimeoutExpired as error:
        raise IptablesError(f"{command[0]} did not end within {error.timeout:.0f} s") from error


def _explain(stderr: str, text: str) -> str:
    """What the program said, and the line it spoke of."""
    said = " ".join(_NOISE.sub("", stderr).split())
    found = _LINE.search(said)
    lines = text.splitlines()
    if found is None or not 0 < int(found[1]) <= len(lines):
        return said
    return f"{said}: {lines[int(found[1]) - 1]}"
