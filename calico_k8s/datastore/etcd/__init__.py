"""etcd v3 as a store: the one door to etcd.

============  =====================================================================================
wire          the bytes of the five messages that carry data
messages      those of leases and compaction, by the etcd3 package
http2         a gRPC call as bytes, without a socket: imports hpack and hyperframe
connection    a socket, TLS, time limits
transport     the members of a cluster, and what their errors mean
store         reads, transactions, leases
watcher       a prefix followed from member to member
rights        users and roles: who may read and write what
============  =====================================================================================
"""
