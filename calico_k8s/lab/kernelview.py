"""What a node's kernel holds of rules and sets, as text that can be compared.

In: a node that is up.  Out: its iptables rules and ipsets without counters and times, sorted where
the kernel's order says nothing.
"""

import re
import subprocess

from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.lab.cluster import NodeSite
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import versions

_NOISE = re.compile(r"^#.*\n|\[\d+:\d+\]", re.MULTILINE)


def kernel_text(node: NodeSite, backend: Backend) -> str:
    """Everything, Felix's and others'.

    Raises:
        IptablesError: the rules cannot be read.
    """
    with entered(node.namespace):
        tables = [save(backend, version) for version in sorted(versions(node.addresses))]
        sets = subprocess.run(["ipset", "save"], capture_output=True, text=True, check=True).stdout
    members = sorted(sets.splitlines())
    return _NOISE.sub("", "".join(tables)) + "\n".join(members)
