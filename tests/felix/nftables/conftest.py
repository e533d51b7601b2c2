"""The fixture `namespace` for the tests of this folder that meet the real kernel."""

from tests.namespaces import namespace

__all__ = ["namespace"]
