"""The story that the demo tells: a small application, and the changes to it, act by act.  Pure.

In: nothing.  Out: manifests as values, and patches to them.  What is shown of an act is what is
applied.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import yaml

from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.query.reach import Service

Object = dict[str, Any]  # Any: what JSON can say

WEB, API = (Service(PROTOCOL_NUMBERS["tcp"], port) for port in (80, 4001))


class Act(msgspec.Struct, frozen=True):
    """One change and what to look at."""

    title: str
    says: str
    patches: tuple[Object, ...] = ()
    """Each names its object, and has only what is added or replaced; an object that was not there
    is whole."""

    @property
    def text(self) -> str:
        """The patches as YAML."""
        return yaml.safe_dump_all(self.patches, sort_keys=False, default_flow_style=None, width=90)


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _pod(namespace: str, name: str, node: str, **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node},
    }


OBJECTS: tuple[Object, ...] = (
    _namespace("client"),
    _namespace("webapp"),
    _pod("client", "browser", "node-1", app="browser"),
    _pod("client", "scanner", "node-2", app="scanner"),
    _pod("webapp", "frontend", "node-1", app="frontend", access="backend"),
    _pod("webapp", "batch", "node-2", app="batch"),
    _pod("webapp", "backend-1", "node-1", app="backend"),
    _pod("webapp", "backend-2", "node-2", app="backend"),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "frontend", "namespace": "webapp"},
        "spec": {"selector": {"app": "frontend"}, "ports": [{"port": 80}]},
    },
)

CLOSED = {"annotations": {"projectcalico-policy": "closed"}}
STATEMENT = "allow tcp from label access=backend to port 4001"

ACTS: tuple[Act, ...] = (
    Act(
        title="Everything open",
        says="Six pods on two nodes and nobody has said anything: every pod reaches every pod.",
    ),
    Act(
        title="Two namespaces closed",
        says="One word on each namespace: only pods of the same namespace may enter.",
        patches=tuple(
            {"kind": "Namespace", "metadata": {"name": name, **CLOSED}}
            for name in ("client", "webapp")
        ),
    ),
    Act(
        title="One service open",
        says="A label on the service: its port opens to every source, and nothing else does.",
        patches=(
            {
                "kind": "Service",
                "metadata": {
                    "name": "frontend",
                    "namespace": "webapp",
                    "labels": {"projectcalico-policy": "open"},
                },
            },
        ),
    ),
    Act(
        title="One line on the backends",
        says="Only webapp/frontend carries access=backend; webapp/batch does not.",
        patches=tuple(
            {
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": "webapp",
                    "annotations": {"policy": STATEMENT},
                },
            }
            for name in ("backend-1", "backend-2")
        ),
    ),
    Act(
        title="A NetworkPolicy on top",
        says="It replaces the annotation of the pods it selects: a developer lets webapp/batch in too.",
        patches=(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "to-backends", "namespace": "webapp"},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "backend"}},
                    "ingress": [
                        {
                            "from": [{"podSelector": {"matchLabels": {"app": name}}}],
                            "ports": [{"protocol": "TCP", "port": API.port}],
                        }
                        for name in ("frontend", "batch")
                    ],
                },
            },
        ),
    ),
    Act(
        title="A tier before it",
        says="What security denies no developer allows; what it passes, the NetworkPolicy decides.",
        patches=(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "Tier",
                "metadata": {"name": "security"},
                "spec": {"order": 100},
            },
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "GlobalNetworkPolicy",
                "metadata": {"name": "guard"},
                "spec": {
                    "tier": "security",
                    "selector": "app == 'backend'",
                    "ingress": [
                        {"action": "Deny", "source": {"selector": "app == 'batch'"}},
                        {"action": "Pass"},
                    ],
                },
            },
        ),
    ),
)
"""The acts that change an object; the last act of the demo changes none."""


def patched(objects: Iterable[Object], patches: Iterable[Object]) -> list[Object]:
    """The objects with the patches merged in, and those that are new."""
    made = {_name(each): copy.deepcopy(each) for each in objects}
    for patch in patches:
        _merge(made.setdefault(_name(patch), {}), patch)
    return list(made.values())


def _name(value: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = value["metadata"]
    return value["kind"], metadata.get("namespace", ""), metadata["name"]


def _merge(target: Object, patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)
