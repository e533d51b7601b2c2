"""Rules about the statements of policy annotations: those that can never do anything.

In: a view of a cluster.  Out: findings, each on the words of its statement.
"""

import difflib
from collections.abc import Iterator, Mapping

import grammar
from calico_k8s.lint.covers import covers
from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.translate.findings import FieldPath, Finding, ObjectRef
from calico_k8s.translate.labels import NAMESPACE_LABEL, endpoint_labels, own_labels
from calico_k8s.translate.objects import Pod, object_ref
from calico_k8s.translate.workloads import named_ports, service_account


def statement_findings(view: View) -> Iterator[Finding]:
    """What is probably not meant in the policies of all pods."""
    for pod in view.cluster.pods:
        annotation = view.annotation(pod)
        if annotation is None:
            continue
        path = ("metadata", "annotations", annotation.key)
        if pod.spec is not None and pod.spec.host_network:
            yield _host_network(object_ref(pod), path)
            continue
        yield from _Policy(view, pod, path).findings()


def _host_network(ref: ObjectRef, path: FieldPath) -> Finding:
    message = (
        "the pod is on its node's network, where no policy of pods applies: "
        "nothing of this annotation holds"
    )
    return lint_finding(LintCode.HOST_NETWORK, message, ref, path)


class _Policy:
    """The statements of one pod, and what they can meet."""

    def __init__(self, view: View, pod: Pod, path: FieldPath) -> None:
        self._view = view
        self._pod = pod
        self._ref = object_ref(pod)
        self._path = path
        self._statements = view.statements(pod)

    def findings(self) -> Iterator[Finding]:
        for index, statement in enumerate(self._statements):
            shadow = self._shadow(index)
            if shadow is not None:
                printed = grammar.print_statement(self._statements[shadow])
                yield self._finding(
                    LintCode.STATEMENT_SHADOWED,
                    statement,
                    f"statement {index + 1} never matches: statement {shadow + 1}, '{printed}', "
                    "already takes all that it could",
                )
                continue
            yield from self._targets(statement)
            yield from self._sources(statement)

    def _shadow(self, index: int) -> int | None:
        """The first earlier statement that takes everything this one could."""
        second = self._statements[index]
        for earlier in range(index):
            if covers(self._statements[earlier], second, self._ref.namespace):
                return earlier
        return None

    def _targets(self, statement: grammar.Statement) -> Iterator[Finding]:
        """Criteria on the pod itself that it does not meet."""
        own = own_labels(self._pod.metadata.labels or {})
        labels = endpoint_labels(own, self._ref.namespace, service_account(self._pod))
        for match in statement.dst:
            selector = _as_selector(match)
            if selector is not None and not grammar.evaluate(selector, labels):
                yield self._finding(
                    LintCode.TARGET_MISMATCH,
                    statement,
                    f"'to' speaks of the annotated pod itself, and '{_words(match)}' is not true "
                    "of it, so the statement never matches",
                )
            elif isinstance(match, grammar.PortsMatch):
                yield from self._port_names(statement, match)

    def _port_names(
        self, statement: grammar.Statement, match: grammar.PortsMatch
    ) -> Iterator[Finding]:
        protocol = PROTOCOL_NUMBERS[statement.protocol] if statement.protocol else None
        declared = [n.name for n in named_ports(self._pod) if n.protocol == protocol]
        for name in match.ports:
            if isinstance(name, str) and name not in declared:
                known = f"; it has {', '.join(declared)}" if declared else ""
                yield self._finding(
                    LintCode.PORT_NAME_UNKNOWN,
                    statement,
                    f"no container of the pod has a {statement.protocol} port named "
                    f"'{name}'{known}",
                )

    def _sources(self, statement: grammar.Statement) -> Iterator[Finding]:
        """Peers that are not there."""
        named = [m.name for m in statement.src if isinstance(m, grammar.NamespaceMatch)]
        scope = named[0] if named else self._ref.namespace
        if scope not in self._view.namespaces:
            hint = _nearest(scope, self._view.namespaces)
            message = f"there is no namespace '{scope}'{hint}"
            yield self._finding(LintCode.NAMESPACE_UNKNOWN, statement, message)
            return
        peers = [s for match in statement.src if (s := _as_selector(match)) is not None]
        if peers and not self._any_matches(peers, scope):
            words = " ".join(_words(m) for m in statement.src if _as_selector(m) is not None)
            message = f"no pod of namespace '{scope}' matches '{words}'"
            hint = self._hint(peers, scope)
            yield self._finding(LintCode.PEER_MATCHES_NOTHING, statement, message + hint)

    def _any_matches(self, peers: list[grammar.Selector], scope: str) -> bool:
        return any(
            labels[NAMESPACE_LABEL] == scope and _all_true(peers, labels)
            for labels in self._view.labels.values()
        )

    def _hint(self, peers: list[grammar.Selector], scope: str) -> str:
        """A label that is near the one written, or why pods that carry it do not count."""
        pods = [p for p in self._view.cluster.pods if object_ref(p).namespace == scope]
        for pod in pods:
            is_on_host = pod.spec is not None and pod.spec.host_network
            if is_on_host and _all_true(peers, pod.metadata.labels or {}):
                return ": the pods that do are on their nodes' network, so count as nodes"
        if len(peers) != 1 or not isinstance(peers[0], grammar.Equal):
            return ""
        known = {f"{k}={v}" for pod in pods for k, v in (pod.metadata.labels or {}).items()}
        return _nearest(f"{peers[0].key}={peers[0].value}", known)

    def _finding(self, code: LintCode, statement: grammar.Statement, message: str) -> Finding:
        return lint_finding(
            code, message, self._ref, self._path, (statement.span.start, statement.span.end)
        )


def _as_selector(match: grammar.Match) -> grammar.Selector | None:
    """A match on labels as a selector; None for any other."""
    match match:
        case grammar.LabelMatch(key, value):
            return grammar.Equal(key, value)
        case grammar.SelectorMatch(selector):
            return selector
        case _:
            return None


def _all_true(selectors: list[grammar.Selector], labels: Mapping[str, str]) -> bool:
    return all(grammar.evaluate(selector, labels) for selector in selectors)


def _words(match: grammar.Match) -> str:
    """The match as it is written."""
    statement = grammar.Statement(grammar.Action.ALLOW, src=(match,))
    return grammar.print_statement(statement).removeprefix("allow from ")


def _nearest(word: str, known: "frozenset[str] | set[str]") -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean '{near[0]}'?" if near else ""
