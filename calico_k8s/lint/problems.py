"""What lint says: problems with their places, and every code there is.

In: nothing.  Out: :class:`Problem` and the table of codes.  docs/lint.md explains each code with
an example and a remedy; a test holds the two together.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from calico_k8s.translate.findings import Code, Severity, severity_of


class LintCode(StrEnum):
    """What only the whole cluster shows; :class:`~calico_k8s.translate.findings.Code` has the rest."""

    ADDRESS_SHARED = "address-shared"
    ANNOTATION_GOVERNS = "annotation-governs"
    APISERVICE_UNREACHABLE = "apiservice-unreachable"
    CIDR_HIDDEN = "cidr-hidden"
    EGRESS_WITHOUT_DNS = "egress-without-dns"
    HOST_ADDRESS_SHARED = "host-address-shared"
    HOST_CLOSED = "host-closed"
    HOST_INTERFACE_SHARED = "host-interface-shared"
    HOST_NETWORK = "host-network"
    HOST_NODE_UNKNOWN = "host-node-unknown"
    HOST_POLICY_UNUSED = "host-policy-unused"
    HOST_PROFILE_UNKNOWN = "host-profile-unknown"
    INGRESS_UNREACHABLE = "ingress-unreachable"
    MANIFEST_UNREADABLE = "manifest-unreadable"
    NAMESPACE_CLOSED = "namespace-closed"
    NAMESPACE_SELECTOR_NEGATIVE = "namespace-selector-negative"
    NAMESPACE_UNKNOWN = "namespace-unknown"
    PEERS_EITHER = "peers-either"
    PEER_MATCHES_NOTHING = "peer-matches-nothing"
    POLICY_DIRECTION_IGNORED = "policy-direction-ignored"
    POLICY_SELECTS_NOTHING = "policy-selects-nothing"
    POLICY_SHADOWED = "policy-shadowed"
    PORT_NAME_UNKNOWN = "port-name-unknown"
    PORT_PROTOCOL_MISSING = "port-protocol-missing"
    PRIORITY_EQUAL = "priority-equal"
    SERVICE_EXPOSES_NOTHING = "service-exposes-nothing"
    SERVICE_FOREIGN_ADDRESS = "service-foreign-address"
    SERVICE_OPENS = "service-opens"
    SERVICE_PORT_UNKNOWN = "service-port-unknown"
    STATEMENT_SHADOWED = "statement-shadowed"
    TARGET_MISMATCH = "target-mismatch"
    UNTRACKED_ONE_WAY = "untracked-one-way"
    WEBHOOK_UNREACHABLE = "webhook-unreachable"


class CodeInfo(NamedTuple):
    """How bad problems of a code are, and what they are in a few words."""

    severity: Severity
    summary: str


class Problem(msgspec.Struct, frozen=True):
    """One problem; ``file`` is empty and ``line`` 0 for objects that no file holds."""

    severity: Severity
    code: str
    message: str
    file: str
    line: int
    column: int
    object: str
    """``Kind/namespace/name`` of the object that a person wrote."""
    excerpt: str = ""
    """The lines that show the place inside a policy text; empty for other problems."""


_SUMMARIES: Mapping[Code | LintCode, str] = {
    Code.ADDRESS_INVALID: "an address in an object's status is no IP address",
    Code.ANNOTATION_KEYS: "a pod has two policy annotations that differ",
    Code.ANNOTATION_SYNTAX: "a policy annotation does not parse",
    Code.FLAG_CONFLICT: "a namespace's annotation and label say different things",
    Code.FLAG_VALUE: "a namespace's flag is neither open nor closed",
    Code.LABEL_RESERVED: "a pod gives itself a label that says where it comes from",
    Code.OBJECT_DUPLICATE: "an object is there twice",
    Code.OBJECT_INVALID: "an object cannot be decoded",
    Code.POLICY_INVALID: "a part of a policy cannot be used",
    Code.POLICY_SERVICE_UNKNOWN: "a policy names a service that leads nowhere",
    Code.SERVICE_EXTERNAL_NAME: "an open service is of type ExternalName",
    Code.SERVICE_FLAG_VALUE: "a service's label is not open",
    Code.STAGED_TARGET_UNKNOWN: "a staged policy would delete one that is not there",
    Code.TIER_FIXED: "a built-in tier is given another order or default action",
    Code.TIER_UNKNOWN: "a policy is in a tier that is not there",
    LintCode.ADDRESS_SHARED: "two live pods have one address",
    LintCode.ANNOTATION_GOVERNS: "a pod's annotation says who reaches it",
    LintCode.APISERVICE_UNREACHABLE: "the API server cannot reach an APIService's pods",
    LintCode.CIDR_HIDDEN: "a cidr source cannot be seen behind a NodePort or LoadBalancer",
    LintCode.HOST_ADDRESS_SHARED: "a host endpoint expects an address that is somebody else's",
    LintCode.HOST_CLOSED: "nothing speaks for a host endpoint, so it denies nearly everything",
    LintCode.HOST_INTERFACE_SHARED: "two host endpoints are about one interface",
    LintCode.HOST_NETWORK: "an annotated pod is on its node's network",
    LintCode.HOST_NODE_UNKNOWN: "a host endpoint is of a node that is not there",
    LintCode.HOST_POLICY_UNUSED: "a policy of host endpoints alone selects none",
    LintCode.HOST_PROFILE_UNKNOWN: "a host endpoint names a profile that is not there",
    LintCode.INGRESS_UNREACHABLE: "nothing outside the namespace reaches an Ingress' pods",
    LintCode.MANIFEST_UNREADABLE: "a file is not YAML, or cannot be read",
    LintCode.NAMESPACE_CLOSED: "only pods of a namespace reach its pods",
    LintCode.NAMESPACE_UNKNOWN: "a statement names a namespace that is not there",
    LintCode.PEER_MATCHES_NOTHING: "a label or selector matches no pod",
    LintCode.PORT_NAME_UNKNOWN: "a statement names a port that its pod does not have",
    LintCode.EGRESS_WITHOUT_DNS: "pods may reach others, and no name server",
    LintCode.NAMESPACE_SELECTOR_NEGATIVE: "a negative namespaceSelector selects host endpoints too",
    LintCode.PEERS_EITHER: "two entries of from or to, where one with both was meant",
    LintCode.POLICY_DIRECTION_IGNORED: "a policy has rules for a direction that it does not speak for",
    LintCode.POLICY_SELECTS_NOTHING: "a policy selects no pod of its namespace",
    LintCode.POLICY_SHADOWED: "an earlier policy of the tier decides everything",
    LintCode.PORT_PROTOCOL_MISSING: "port 53 without a protocol is TCP alone",
    LintCode.PRIORITY_EQUAL: "two ClusterNetworkPolicies of one priority select the same pods",
    LintCode.SERVICE_EXPOSES_NOTHING: "an open service opens nothing",
    LintCode.SERVICE_FOREIGN_ADDRESS: "an open service leads to what is no pod of its namespace",
    LintCode.SERVICE_OPENS: "a service opens its ports on pods that are closed without it",
    LintCode.SERVICE_PORT_UNKNOWN: "an open service names a port that none of its pods has",
    LintCode.STATEMENT_SHADOWED: "a statement never matches: an earlier one takes all of it",
    LintCode.TARGET_MISMATCH: "a statement's 'to' is never true of its own pod",
    LintCode.UNTRACKED_ONE_WAY: "a doNotTrack policy allows what nothing lets answer",
    LintCode.WEBHOOK_UNREACHABLE: "the API server cannot reach a webhook's pods",
}

_ERRORS = frozenset({LintCode.MANIFEST_UNREADABLE})
EFFECTS = frozenset(
    {LintCode.ANNOTATION_GOVERNS, LintCode.NAMESPACE_CLOSED, LintCode.SERVICE_OPENS}
)
"""What is no mistake: said only where somebody asks what policy does to a cluster."""


def _info(code: Code | LintCode, summary: str) -> CodeInfo:
    if isinstance(code, Code):
        return CodeInfo(severity_of(code), summary)
    if code in EFFECTS:
        return CodeInfo(Severity.NOTE, summary)
    return CodeInfo(Severity.ERROR if code in _ERRORS else Severity.WARNING, summary)


CODES: Mapping[str, CodeInfo] = {
    str(code): _info(code, summary) for code, summary in sorted(_SUMMARIES.items())
}
"""Every code that lint can give, sorted."""
