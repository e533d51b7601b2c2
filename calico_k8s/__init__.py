"""calico_k8s: network policy for Kubernetes, from one line of text to a dropped packet."""
