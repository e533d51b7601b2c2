"""Who is who between etcd, the controller and the nodes: certificates, and etcd's rights by them.

::

    node, controller, member                  signer
    ────────────────────────                  ──────
    holder: key, request ──► Kubernetes ──►   requests: who asks, for what? denied, or granted
       ▲                     (a CSR)   ◄──    authority: signs; only the signer reads its key
       └── certificate, authority ─┘          users: every node's user and role in etcd

============  =====================================================================================
names         service accounts and common names: which belongs to which
authority     makes an authority, and certificates by it
requests      what a request may be granted, as a pure decision
kube          requests, the authority's Secret and ConfigMap in the Kubernetes API
users         the users that etcd is to have, kept there
signer        the process that puts these together
files         a key and its certificates on disk, replaced at once
checks        whether what is on disk will do
holder        asks for a certificate, and again before it ends
============  =====================================================================================
"""
