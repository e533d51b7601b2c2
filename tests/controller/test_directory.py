"""A directory of manifests as its own controller: what of its policies is told."""

from contextlib import closing
from pathlib import Path

from calico_k8s.controller.directory import DirectoryController
from calico_k8s.datastore.factory import open_store
from calico_k8s.translate.namespaces import TranslateSettings
from tests.cli.program import run
from tests.cluster.controllers import wait_for

LATE = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: late}
spec: {tier: late}
"""
TIER = """
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: late}
"""


def test_a_policy_that_is_not_in_force_is_told_by_status_until_it_is(tmp_path: Path) -> None:
    folder, url = tmp_path / "manifests", f"sqlite://{tmp_path / 'state.db'}"
    folder.mkdir()
    (folder / "late.yaml").write_text(LATE)
    with closing(open_store(url)) as store:
        controller = DirectoryController([str(folder)], TranslateSettings(), store)
        with closing(controller):
            controller.start()
            told = run("status", "--datastore", url)
            assert told.code == 1
            assert "GlobalNetworkPolicy/late: there is no tier 'late'" in told.out
            (folder / "tier.yaml").write_text(TIER)
            wait_for(lambda: "policies: 1, all in force" in run("status", "--datastore", url).out)
