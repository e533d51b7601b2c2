"""Where objects come from when it is not the API: manifests on disk, made into a cluster."""
