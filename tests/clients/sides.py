"""What clients are tested against: a gateway with the embedded model alone, and one with a cloud of each kind.

Each side is one process for the whole run. It starts when a test first asks for it, and ends with the run.
"""

import atexit
import contextlib
import functools
import sys
import time
import unittest

from fake_cloud import CloudServer
from gateway import BINARY, Gateway
from prompts import CARD_PARTS

EDGE, CLOUDS = "edge", ("openai", "anthropic")
SIDES = (EDGE, *CLOUDS)
# A test that takes longer says how long.
SLOW_SECONDS_MIN = 1.0

_running = contextlib.ExitStack()
atexit.register(_running.close)


class Side:
    """A gateway, and the cloud behind it if there is one."""

    def __init__(self, name):
        self.name = name
        self.cloud = _running.enter_context(CloudServer()) if name in CLOUDS else None
        cloud = (self.cloud.base_url,) if self.cloud else ()
        self.gateway = _running.enter_context(Gateway(BINARY, *cloud, kind=name))

    @property
    def is_cloud(self):
        return self.cloud is not None


# The side of a name: always the same one.
side = functools.cache(Side)


class Timed(unittest.TestCase):
    """Tests that say how long they took, if that is long."""

    def run(self, result=None):
        begin = time.monotonic()
        try:
            return super().run(result)
        finally:
            seconds = time.monotonic() - begin
            if seconds >= SLOW_SECONDS_MIN:
                print(f"    {seconds:.1f} s: {self.id()}", file=sys.stderr)


class OnSides(Timed):
    """`edge` and the clouds are as if just started: nothing has reached them."""

    def setUp(self):
        for name in CLOUDS:
            side(name).cloud.forget()

    @property
    def edge(self):
        return side(EDGE).gateway

    def assert_no_card_left(self):
        for name in CLOUDS:
            for part in CARD_PARTS:
                self.assertNotIn(part.encode(), side(name).cloud.received)
