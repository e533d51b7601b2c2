"""The API server that tests run is a real one: it keeps, and it refuses."""

import pytest

from tests.cluster.servers import NOBODY, ApiServer

pytestmark = pytest.mark.cluster


def test_an_api_server_that_was_killed_returns_with_what_it_knew(kube: ApiServer) -> None:
    kube.kubectl("create", "namespace", "kept")
    kube.restart()
    assert kube.kubectl("get", "namespace", "kept", "-o", "name") == "namespace/kept\n"


def test_a_user_without_rights_is_refused(kube: ApiServer) -> None:
    with pytest.raises(AssertionError, match="forbidden"):
        kube.kubectl("get", "pods", user=NOBODY)


def test_kustomize_is_there(kube: ApiServer) -> None:
    assert "kustomization" in kube.kubectl("kustomize", "--help")
