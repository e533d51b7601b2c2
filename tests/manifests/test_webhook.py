"""Whom the API server asks about: every kind that policy of ours is written in."""

from pathlib import Path

import yaml

from calico_k8s.controller.wire import DEFINED, PATHS

WEBHOOK = Path(__file__).parents[2] / "manifests" / "webhook" / "webhook.yaml"


def test_each_kind_of_policy_is_asked_about() -> None:
    (hooks,) = (
        each["webhooks"]
        for each in yaml.safe_load_all(WEBHOOK.read_text(encoding="utf-8"))
        if each["kind"] == "ValidatingWebhookConfiguration"
    )
    (rules,) = (hook["rules"] for hook in hooks if hook["name"].startswith("policies."))
    asked = {(rule["apiGroups"][0], name) for rule in rules for name in rule["resources"]}
    kinds = (PATHS[kind].split("/") for kind in (*DEFINED, "NetworkPolicy"))
    assert asked == {(group, plural) for _, _, group, _, plural in kinds}
