"""What the elements of both grammars have in common."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

FIRST_READING = """
import sys, threading
import grammar
sys.setswitchinterval(1e-6)
texts = [
    "allow tcp from namespace a label b=c to port 80,http; deny icmp type 8 code 0",
    "allow from selector (all() || a == 'b' && c in {'d'} || !has(e) || global()) to cidr ::/0",
] * 4
barrier = threading.Barrier(len(texts))
failed = []
def read(text):
    barrier.wait()
    try:
        assert grammar.print_policy(grammar.parse_policy(text)) == text
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=read, args=[text]) for text in texts]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(repr(failed) if failed else 0)
"""


def test_the_first_texts_may_be_read_by_several_threads_at_once() -> None:
    for _ in range(5):  # every other time it went wrong, when it did
        done = subprocess.run(
            [sys.executable, "-c", FIRST_READING],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
