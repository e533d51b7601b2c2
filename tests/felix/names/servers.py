"""Real DNS servers for tests, and questions to them: dnsmasq in a namespace, asked by dnspython."""

import contextlib
import subprocess
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rdatatype

from calico_k8s.model.addresses import Address
from tests.namespaces import Namespace
from tests.needs import require_program

ANSWER_S = 5.0


@contextlib.contextmanager
def dns_server(where: Namespace, address: Address, *records: str, port: int = 53) -> Iterator[None]:
    """A dnsmasq that answers these records (options without dashes), and nothing else."""
    require_program("dnsmasq", package="dnsmasq-base")
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root"]
    command += ["--pid-file=", "--no-resolv", "--no-hosts", "--bind-interfaces", "--no-ping"]
    command += [f"--listen-address={address}", f"--port={port}", "--log-facility=-"]
    command += [f"--{record}" for record in records]
    with where:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "started" in line:
                break
        else:
            raise AssertionError(said)
        yield
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def look_up(
    source: Namespace,
    server: Address,
    name: str,
    *,
    family: int = 4,
    over_tcp: int = False,
    port: int = 53,
) -> list[str]:
    """The addresses that a server gives a name, asked from a namespace."""
    kind = dns.rdatatype.A if family == 4 else dns.rdatatype.AAAA
    question = dns.message.make_query(name, kind)
    ask = dns.query.tcp if over_tcp else dns.query.udp
    with source:
        answer = ask(question, server, timeout=ANSWER_S, port=port)
    return [str(address) for rrset in answer.answer if rrset.rdtype == kind for address in rrset]
