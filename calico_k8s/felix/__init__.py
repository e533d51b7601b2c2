"""The node's agent: from the datastore's items to what the kernel does with packets."""
