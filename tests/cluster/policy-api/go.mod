module calico-k8s/tests/cluster/policy-api

go 1.26.0

// What is taken of it is its definition of ClusterNetworkPolicy: no code is built.
require sigs.k8s.io/network-policy-api v0.2.0
