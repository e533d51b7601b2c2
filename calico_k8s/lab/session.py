"""A lab that stays up: its manifests are followed, and other programs may ask things of it.

In: a lab, its manifests, requests, perhaps a command to run beside it.  Out: lines for people, and
the command's exit code.  Everything is done by the thread that called, one thing after another.
"""

import os
import queue
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from calico_k8s.errors import CalicoError, InputError, UnavailableError
from calico_k8s.lab.remote import Asked, RemoteControl, Response
from calico_k8s.lab.run import Lab
from calico_k8s.model.names import NodeName
from calico_k8s.sources.expand import ExpandOptions, expand
from calico_k8s.sources.follow import Follower, Watch

LOOK_S = 0.1
"""How often it is looked whether the command has ended."""

_CHANGED = None
"""In the queue: a manifest was written."""

Say = Callable[[str], None]


class Session:
    """One lab while it stays."""

    def __init__(self, lab: Lab, paths: Sequence[str], options: ExpandOptions, say: Say) -> None:
        self._lab = lab
        self._paths = tuple(paths)
        self._follower = Follower(paths)
        self._options = options
        self._say = say
        self._told: tuple[str, ...] = ()
        self._news: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()

    def stay(self, command: Sequence[str], welcome: Callable[[], None]) -> int:
        """Runs until the command ends, with its code; without a command, until interrupted.

        ``welcome`` is called once others can find this lab, and before the command starts.
        """
        with ExitStack() as stack:
            remote = RemoteControl(self._lab.cluster.directory, self._news.put)
            stack.callback(remote.close)
            remote.describe(self._lab.cluster, self._lab.store.url)
            self._follower.read()
            watch = Watch(self._paths, partial(self._news.put, _CHANGED))
            stack.callback(watch.close)
            welcome()
            process = self._start(command)
            if process is not None:
                stack.callback(_end, process)
            while process is None or process.poll() is None:
                try:
                    news = self._news.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                if news is None:
                    self._follow()
                    remote.describe(self._lab.cluster, self._lab.store.url)
                else:
                    news.answer.set_result(self._answer(news))
            return process.returncode

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        if not command:
            return None
        run = {"CALICO_K8S_RUN": self._lab.cluster.directory.name}
        environment = os.environ | self._lab.store.environment() | run
        try:
            return subprocess.Popen(command, env=environment)
        except OSError as error:
            raise UnavailableError(f"{command[0]} cannot be run: {error.strerror}") from error

    def _follow(self) -> None:
        followed = self._follower.read()
        told = tuple(map(str, followed.errors))
        for line in told if told != self._told else ():
            self._say(f"error: {line}; what was there before stands")
        self._told = told
        try:
            objects = expand(followed.manifests, self._options, self._lab.objects)
            before = self._lab.snapshot
            self._lab.apply(objects)
        except InputError as error:
            self._say(f"error: {error}; what was there before stands")
            return
        except CalicoError as error:
            self._say(f"error: {error}")
            return
        if self._lab.snapshot != before:
            self._say(f"changed, and in force: {len(self._lab.cluster.pods)} pods")

    def _answer(self, asked: Asked) -> Response:
        node = NodeName(asked.request.node)
        try:
            match asked.request.do:
                case "kill":
                    self._lab.kill_agent(node)
                    self._say(f"the agent of node {node} was killed; what it enforced stands")
                case "start":
                    self._lab.start_agent(node)
                    self._say(f"the agent of node {node} is back, and in sync")
        except CalicoError as error:
            return Response(str(error))
        return Response()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
