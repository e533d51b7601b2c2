"""What happens to a test whose machine lacks what it needs."""

import pytest

from tests.needs import is_allowed_skip, require_kernel, requires


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


@pytest.mark.parametrize(
    ("ci", "reason", "expected"),
    [
        ("true", "Skipped: needs root: run it as root", False),
        ("true", "Skipped: this kernel is built without hash:net,net", True),
        ("false", "Skipped: needs root: run it as root", True),
    ],
)
def test_in_continuous_integration_only_the_kernel_may_lack_something(
    monkeypatch: pytest.MonkeyPatch, ci: str, reason: str, expected: bool
) -> None:
    monkeypatch.setenv("CI", ci)
    assert is_allowed_skip(reason) is expected


def test_a_kernel_that_lacks_a_feature_is_a_skip_even_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception) as skipped:
        require_kernel("hash:net,net", found=False)
    assert is_allowed_skip(str(skipped.value))
