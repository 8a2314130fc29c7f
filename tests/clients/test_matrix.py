"""Every row of README.md's table is run by somebody.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import unittest

import test_anthropic_python
import test_curl
import test_langchain
import test_litellm
import test_node
import test_openai_python
import test_openai_responses
from matrix import CASES, Matrix, table

PYTHON = (
    test_anthropic_python, test_curl, test_langchain, test_litellm, test_openai_python, test_openai_responses,
)


class Table(unittest.TestCase):
    """The table against the classes that have a way."""

    def test_every_row_is_run_and_every_cell_is_told(self):
        classes = [kind for module in PYTHON for kind in vars(module).values() if isinstance(kind, type)]
        ways = {kind.way.name for kind in classes if issubclass(kind, Matrix) and kind.way}
        rows = table()
        node = {name for name in rows if name.startswith(test_node.OFFICIAL + test_node.VERCEL)}
        self.assertEqual(set(rows) - {"client"}, ways | node)
        for name in set(rows) - {"client"}:
            self.assertLessEqual(set(rows[name].values()), {"yes", "–"}, name)
            self.assertEqual(tuple(rows[name]), CASES)


if __name__ == "__main__":
    unittest.main()
