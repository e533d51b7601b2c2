"""Applications as text, small enough to see at once what must come out."""

POD = """\
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {name}}}
{annotations}spec:
  containers:
  - name: main
    ports:
    - {{name: main, containerPort: {port}}}
"""


def pod(path: str, policy: str | None = None, port: int = 80) -> str:
    """A pod ``namespace/name``, labelled ``app: name``."""
    namespace, _, name = path.partition("/")
    annotations = "" if policy is None else f"  annotations:\n    policy: {policy}\n"
    return POD.format(name=name, namespace=namespace, annotations=annotations, port=port)


def namespace(name: str, flag: str) -> str:
    """A namespace with a flag."""
    return (
        f"---\napiVersion: v1\nkind: Namespace\n"
        f"metadata: {{name: {name}, labels: {{projectcalico-policy: {flag}}}}}\n"
    )


def service(path: str, *, label: str = "open", target: str = "main") -> str:
    """A service for the pod of its name."""
    place, _, name = path.partition("/")
    return (
        "---\napiVersion: v1\nkind: Service\n"
        f"metadata: {{name: {name}, namespace: {place}, labels: {{projectcalico-policy: {label}}}}}\n"
        f"spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
    )


TWO_TIERS = (
    namespace("web", "closed")
    + pod("web/a", port=8080)
    + service("web/a")
    + pod("db/b", "allow tcp from namespace web label app=a to port 5432", port=5432)
    + pod("db/c", port=5432)
)
"""``web/a`` behind an open service in a closed namespace, ``db/b`` annotated, ``db/c`` open."""
