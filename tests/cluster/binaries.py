"""The programs of Kubernetes that tests run, built from the module beside this, or given.

In comes a program's name, out goes its path.  `KUBEBUILDER_ASSETS`, a folder of programs as
envtest has it, is looked at first.
"""

import os
from pathlib import Path
from typing import Literal

from tests.gobuilds import GoBuild, built_programs

KubeProgram = Literal["kube-apiserver", "kube-proxy", "kubectl"]
ASSETS = "KUBEBUILDER_ASSETS"
BUILD = GoBuild(
    Path(__file__).parent,
    "k8s.io/kubernetes",
    (
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-proxy",
        "k8s.io/kubernetes/cmd/kubectl",
    ),
    ("k8s.io/component-base/version.gitVersion",),
)


def kube_program(name: KubeProgram) -> Path:
    """The program; ends the test when it cannot be had.

    Cost: five minutes the first time.
    """
    given = os.environ.get(ASSETS)
    if given and (Path(given) / name).exists():
        return Path(given) / name
    return built_programs(BUILD) / name
