"""The labels that endpoints carry beside their pod's own.

In: names.  Out: labels.  Source: Calico, libcalico-go/lib/backend/k8s/conversion/constants.go.
No pod may give itself a label that says where it comes from: such labels of a pod are dropped.
"""

import sys
from collections.abc import Mapping

NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
ORCHESTRATOR = "k8s"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
INGRESS_GIVEN_LABEL = "projectcalico.org/ingress-given-by"
"""On pods of whose ingress somebody has spoken where they live: ``annotation`` on an annotated pod,
``flag`` on the pods of a namespace with a flag of its own.  Rules that speak only where nobody
did (the Baseline tier's) ask for it like for any other label."""
NAME_KEY = "projectcalico.org/name"
"""The label, behind a prefix, that says the namespace's or service account's name."""

NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."

SERVICE_ACCOUNT_LABEL_MAX = 62
"""Longer names of service accounts get no label: the name must be shorter than 63 characters."""

_RESERVED = frozenset(
    {NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL, INGRESS_GIVEN_LABEL}
)


def is_reserved(key: str) -> bool:
    """Whether a label of this key says where an endpoint comes from, so is ours to give."""
    return key in _RESERVED or key.startswith((NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX))


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A pod's labels without the reserved ones; a value that many pods have is one text for all."""
    return {key: sys.intern(value) for key, value in labels.items() if not is_reserved(key)}


def endpoint_labels(
    own: Mapping[str, str],
    namespace: str,
    service_account: str,
    *,
    has_annotation: bool = False,
) -> dict[str, str]:
    """The labels of an endpoint itself, those it inherits aside; ``own`` are :func:`own_labels`."""
    given = dict(own)
    given[NAMESPACE_LABEL] = namespace
    given[ORCHESTRATOR_LABEL] = ORCHESTRATOR
    if service_account and len(service_account) <= SERVICE_ACCOUNT_LABEL_MAX:
        given[SERVICE_ACCOUNT_LABEL] = service_account
    if has_annotation:
        given[INGRESS_GIVEN_LABEL] = "annotation"
    return given


def inherited_labels(prefix: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What an endpoint inherits from a namespace or service account of this name and labels."""
    inherited = {f"{prefix}{key}": value for key, value in labels.items()}
    inherited[f"{prefix}{NAME_KEY}"] = name
    return inherited
