"""The slow way to what a table holds: reading what ``iptables-save`` prints."""

import re

from calico_k8s.felix.iptables.hashes import FOREIGN, RuleHash
from calico_k8s.felix.iptables.plan import HOOKS, Held, own_chain
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import TableName

MANY_KINDS = """\
:cali-a - [0:0]
:cali-empty - [0:0]
:OTHERS - [0:0]
-A OTHERS -m comment --comment "cali:inothers" -j RETURN
-A OUTPUT -o v0 -j OTHERS
-A OUTPUT -j cali-a -m comment --comment "cali:jumphash"
-A OUTPUT -m comment --comment "other words" -j OTHERS
-A OUTPUT -j cali-a
-A OUTPUT -g cali-a
-A OUTPUT -o v0 -j cali-empty
-A OUTPUT -p tcp -j cali-empty
-A OUTPUT -m mark --mark 0x1 -j cali-empty
-A OUTPUT -j ACCEPT
-A OUTPUT -j OTHERS
-A OUTPUT -j cali-empty
-A OTHERS -j cali-empty
-A cali-a -j cali-empty
-A cali-a -p tcp -m tcp --dport 80 -j ACCEPT -m comment --comment "cali:a_-dhash"
-A cali-a -m set --match-set cali-s src -m limit --limit 5/sec -g cali-empty
-A cali-a -j NFLOG --nflog-prefix "cali:notahash" --nflog-group 3
-A cali-a -m comment --comment "comment cali:notahash" -j RETURN
-A cali-a -m comment --comment "cali:tooshrt" -j RETURN
-A cali-a -m comment --comment "cali:waytoolong" -j RETURN
-A cali-a -m comment --comment "a" -m comment --comment "cali:secondof" -j RETURN
"""

_RULE = re.compile(r"^-A (\S+) (.*)$", re.MULTILINE)
_HASH = re.compile(r'--comment "?cali:([\w-]{8})"?(?: |$)')


def held_by_save(backend: Backend, version: Version, table: TableName) -> Held:
    """The same as the readers give, by the program; nothing where the table is not in use."""
    if f"*{table}\n" not in save(backend, version):
        return {}
    saved = save(backend, version, table)
    names = re.findall(r"^:(\S+)", saved, re.MULTILINE)
    held: dict[str, list[RuleHash]] = {n: [] for n in names if n in HOOKS or own_chain(n)}
    for chain, text in _RULE.findall(saved):
        if chain in held:
            found = _HASH.search(text)
            is_jump = chain in HOOKS and re.fullmatch(r"-j cali-\S+", text)
            held[chain].append(RuleHash(found[1] if found else text if is_jump else FOREIGN))
    return {name: tuple(rules) for name, rules in held.items()}
