"""A controller whose Lease is short, as a program: so that tests wait less for its end.

In: a kubeconfig, a datastore's URL, a name, and the Lease's seconds.  Otherwise as the command.
"""

import signal
import sys

from calico_k8s.cli.logging import LogOptions, set_up_logging
from calico_k8s.controller.kube import connect
from calico_k8s.controller.lease import lease_times
from calico_k8s.controller.process import Controller, LeaseOptions, Options
from calico_k8s.datastore.factory import open_store
from calico_k8s.errors import CalicoError


def main(kubeconfig: str, url: str, name: str, lease: str, duration_s: str) -> int:
    """The exit code that the command would have."""
    set_up_logging(LogOptions())
    options = Options(name, lease=LeaseOptions("kube-system", lease, lease_times(int(duration_s))))
    controller = Controller(connect(kubeconfig), open_store(url), options)
    signal.signal(signal.SIGTERM, lambda *_: controller.stop())
    try:
        controller.run()
    except CalicoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
