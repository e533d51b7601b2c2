"""From policy groups and endpoints to chains, rules and ipsets as the kernel has them: pure."""
