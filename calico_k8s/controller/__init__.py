"""The one writer of policy: what Kubernetes wants, and the difference to what is stored."""
