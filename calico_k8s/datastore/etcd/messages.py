"""etcd's messages of leases and compaction, by the etcd3 package.

In come our values, or an answer's bytes; out go a request's bytes, or our values.  Nothing is sent
here: these are asked for rarely, so they may take the time that :mod:`.wire` exists to save.  This
is the only module that imports etcd3.
"""

import os

# etcd3 0.12 carries code generated for protobuf 3, which later ones load only as pure Python.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"

try:
    from etcd3 import etcdrpc
except TypeError as error:
    raise ImportError(
        "etcd3 needs protobuf as pure Python, but something imported protobuf before this module"
    ) from error


def encode_lease_grant(ttl_s: int) -> bytes:
    """LeaseGrantRequest; etcd chooses the id."""
    request: bytes = etcdrpc.LeaseGrantRequest(TTL=ttl_s).SerializeToString()
    return request


def decode_lease_grant(answer: bytes) -> int:
    """The id of a granted lease."""
    lease: int = etcdrpc.LeaseGrantResponse.FromString(answer).ID
    return lease


def encode_lease_revoke(lease: int) -> bytes:
    """LeaseRevokeRequest."""
    request: bytes = etcdrpc.LeaseRevokeRequest(ID=lease).SerializeToString()
    return request


def encode_keep_alive(lease: int) -> bytes:
    """LeaseKeepAliveRequest."""
    request: bytes = etcdrpc.LeaseKeepAliveRequest(ID=lease).SerializeToString()
    return request


def decode_keep_alive(answer: bytes) -> int:
    """The seconds the lease has now; 0 when it has ended."""
    ttl_s: int = etcdrpc.LeaseKeepAliveResponse.FromString(answer).TTL
    return ttl_s


def encode_compaction(revision: int) -> bytes:
    """CompactionRequest."""
    request: bytes = etcdrpc.CompactionRequest(revision=revision).SerializeToString()
    return request
