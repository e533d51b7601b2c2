"""etcd v3 as a store: the one door to etcd, whose client package is used for its transport.

============  =====================================================================================
wire          the bytes of the five messages that carry data
transport     endpoints, channels, certificates, time limits, errors: imports etcd3 and grpc
store         reads, transactions, leases
watcher       a prefix followed from member to member
rights        users and roles: who may read and write what
============  =====================================================================================
"""
