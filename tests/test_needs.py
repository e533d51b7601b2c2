"""What happens to a test whose machine lacks what it needs."""

import pytest

from tests.needs import requires


def test_what_is_found_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    requires("Python", found=True, install="nothing")


def test_on_a_developers_machine_a_missing_need_is_a_skip_that_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install etcd-server"):
        requires("etcd", found=False, install="apt-get install etcd-server")


def test_in_continuous_integration_a_missing_need_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs etcd"):
        requires("etcd", found=False, install="apt-get install etcd-server")
