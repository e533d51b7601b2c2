"""Kubernetes objects to the model: what users wrote, as endpoints, profiles, tags and rules.  Pure."""
