"""Settings of a running agent: who wins, what is passed over, what cannot change."""

from calico_k8s.config import Layer
from calico_k8s.felix.settings import Settings
from calico_k8s.render.settings import DEFAULT_MARK_MASK


def test_the_datastore_is_heard_after_flags_and_environment() -> None:
    settings = Settings((Layer("command line", {"pod-to-host-action": "drop"}),))
    settings.take({"pod-to-host-action": "return", "invalid-action": "allow"})
    config = settings.render_config()
    assert (config.pod_to_host_action, config.invalid_action) == ("drop", "allow")
    settings.take({})
    assert settings.render_config().invalid_action == "drop"


def test_what_cannot_be_used_is_told_and_the_rest_holds() -> None:
    settings = Settings(())
    settings.take({"invalid-action": "no", "nonsense": "1", "resync-interval-s": "30"})
    assert settings.config.invalid_action == "drop"
    assert settings.config.resync_interval_s == 30
    assert settings.problems == (
        "datastore: invalid-action: 'no' is not one of drop, allow",
        "datastore: there is no setting 'nonsense'",
    )


def test_what_the_kernel_depends_on_from_the_start_is_not_the_datastores_to_give() -> None:
    settings = Settings(())
    settings.take({"mark-mask": "0xff", "iptables-backend": "nft"})
    assert settings.config.mark_mask == DEFAULT_MARK_MASK
    assert settings.config.iptables_backend == "auto"
    assert len(settings.problems) == 2
    settings.take({})
    assert not settings.problems


def test_interfaces_are_written_as_iptables_takes_them() -> None:
    settings = Settings((Layer("environment", {"workload-interfaces": "cali*, eth7"}),))
    assert settings.render_config().workload_interfaces == ("cali+", "eth7")
