"""What policy changes: whoever gets no note is reached by everybody, as the definition says."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.lint.effects import changed_pods, effect_findings
from calico_k8s.lint.view import View
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.policy.match import Flow
from calico_k8s.policy.verdict import judge
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.namespaces import TranslateSettings

CLOSED = TranslateSettings(default_namespace_policy="closed")
STRANGERS = {4: Address("203.0.113.9"), 6: Address("2001:db8::9")}
FLOWS = [(PROTOCOL_NUMBERS[name], port) for name in ("tcp", "udp", "sctp") for port in (80, 4001)]
POLICIES = (
    None,
    "",
    "allow",
    "alow",
    "deny udp; allow",
    "allow tcp",
    "allow from label app=a",
    "allow tcp from cidr 203.0.113.0/24 to port 80; allow",
)


def pod(name: str, policy: str | None, namespace: str = "shop", number: int = 1) -> str:
    annotations = "" if policy is None else f"\n  annotations: {{policy: {policy!r}}}"
    return (
        f"---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
        f"  labels: {{app: {name}}}{annotations}\nspec: {{nodeName: n1}}\n"
        f"status: {{podIP: 10.0.0.{number}}}\n"
    )


def namespace(name: str, flag: str | None) -> str:
    flagged = f", annotations: {{projectcalico-policy: {flag}}}" if flag else ""
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{flagged}}}\n"


def service(name: str) -> str:
    return (
        "---\napiVersion: v1\nkind: Service\n"
        f"metadata: {{name: {name}, namespace: shop, labels: {{projectcalico-policy: open}}}}\n"
        f"spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    )


def view(text: str, settings: TranslateSettings | None = None) -> View:
    return View(expand(read_text(text, "f").manifests), settings or TranslateSettings())


def notes(text: str, settings: TranslateSettings | None = None) -> dict[str, str]:
    return {str(f.object): f.message for f in effect_findings(view(text, settings))}


@given(
    st.lists(st.sampled_from(POLICIES), min_size=1, max_size=5),
    st.sampled_from([None, "open", "closed", "shut"]),
    st.sampled_from(["open", "closed"]),
    st.sets(st.integers(0, 4)),
)
def test_who_gets_no_note_is_reached_by_everybody(
    policies: list[str | None], flag: str | None, default: str, services: set[int]
) -> None:
    text = namespace("shop", flag)
    text += "".join(pod(f"p{n}", policy, number=n + 1) for n, policy in enumerate(policies))
    text += "".join(service(f"p{n}") for n in services)
    looked = view(text, CLOSED if default == "closed" else None)
    changed = changed_pods(looked)
    for ref, endpoint in looked.endpoints.items():
        verdicts = {
            judge(
                looked.snapshot,
                Flow(STRANGERS[address_version(address)], address, protocol, 40000, port),
            ).allowed
            for address in endpoint.addresses
            for protocol, port in FLOWS
        }
        assert ref in changed or verdicts == {True}
    told = {finding.object for finding in effect_findings(looked)}
    told |= {finding.object for finding in looked.translation.findings}
    for ref in changed:
        assert ref in told or ObjectRef("Namespace", "", ref.namespace) in told


def test_each_note_says_what_becomes_of_its_object() -> None:
    text = namespace("shop", "closed") + namespace("web", None)
    text += pod("a", None) + pod("b", "allow tcp", number=2) + pod("c", "alow", number=3)
    text += pod("d", "", number=4) + pod("e", "allow", number=5) + service("a") + service("e")
    text += pod("f", None, "web", 6) + pod("g", "deny; allow", "web", 7)
    assert notes(text) == {
        "Namespace/shop": (
            "the namespace is closed: only pods of it, and open services, reach its 1 pod"
            " without an annotation"
        ),
        "Pod/shop/b": (
            "what reaches the pod is what the statement of its annotation policy and open"
            " services allow"
        ),
        "Pod/shop/d": "only open services reach the pod: its annotation policy is empty",
        "Pod/web/g": (
            "what reaches the pod is what the 2 statements of its annotation policy and open"
            " services allow"
        ),
        "Service/shop/a": "the service is open: its ports on 1 pod are for every source",
    }


def test_a_cluster_that_nobody_wrote_policy_in_has_no_note_unless_closed_is_the_default() -> None:
    text = namespace("shop", None) + namespace("kube-system", None)
    text += pod("a", None) + pod("dns", None, "kube-system", 2)
    assert notes(text) == {}
    assert list(notes(text, CLOSED)) == ["Namespace/shop"]
    assert "namespaces without a flag are closed" in notes(text, CLOSED)["Namespace/shop"]


def test_another_programs_annotation_is_passed_over_when_its_key_is_not_read() -> None:
    text = namespace("shop", None) + pod("a", "allow tcp")
    assert list(notes(text)) == ["Pod/shop/a"]
    assert notes(text, TranslateSettings(annotation_keys=("projectcalico.org/policy",))) == {}
