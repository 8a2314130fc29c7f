"""A gateway for each side: one with the embedded model alone, and one with a cloud."""

import unittest

from fake_cloud import CloudServer
from gateway import BINARY, Gateway


class BothSides(unittest.TestCase):
    """`edge` and `hybrid` run while the tests of a class do."""

    @classmethod
    def setUpClass(cls):
        cls.cloud = cls.enterClassContext(CloudServer())
        cls.edge = cls.enterClassContext(Gateway(BINARY))
        cls.hybrid = cls.enterClassContext(Gateway(BINARY, cls.cloud.base_url))
