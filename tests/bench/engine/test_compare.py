"""The arithmetic of the comparison."""

import argparse
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import unittest

import compare

HERE = os.path.dirname(os.path.abspath(__file__))


def program(folder, name, text):
    """A program that prints something."""
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


class Compare(unittest.TestCase):
    def test_a_file_whose_end_a_loop_device_would_cut_off_is_refused_with_advice(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" * 513)
            file.flush()
            with self.assertRaises(SystemExit) as refused, compare.small_read_ahead(file.name):
                self.fail("a loop device was made")
            self.assertIn("truncate -s %512", str(refused.exception))

    def test_sizes_have_units(self):
        self.assertEqual(compare.size("3GiB"), 3 << 30)
        self.assertEqual(compare.size("1.5MiB"), 3 << 19)
        with self.assertRaises(argparse.ArgumentTypeError):
            compare.size("3GB")

    def test_ratios_are_of_medians(self):
        self.assertEqual(compare.ratio([1, 2, 9], [4, 1, 1]), 2)
        self.assertIsNone(compare.ratio([], [1]))

    def test_the_ceiling_is_what_the_disk_allows(self):
        report = {"read_bytes_per_second": 1000.0, "decode": {"read_bytes_per_token": 250.0}}
        self.assertEqual(compare.ceiling(report, None), 4)
        self.assertEqual(compare.ceiling(report, 500), 2, "a limited disk gives no more than its limit")
        report["decode"]["read_bytes_per_token"] = 0.0
        self.assertIsNone(compare.ceiling(report, None))

    def test_two_programs_are_compared(self):
        with tempfile.TemporaryDirectory() as folder:
            theirs = '[{"n_prompt": 128, "avg_ts": 20.0}, {"n_prompt": 0, "avg_ts": 4.0}]'
            ours = textwrap.dedent("""\
                {"prompt": {"median": 30.0},
                 "decode": {"median": 6.0, "read_bytes_per_token": 100.0},
                 "read_bytes_per_second": 1000.0}""")
            model = os.path.join(folder, "model.gguf")
            with open(model, "w") as file:
                file.write("GGUF")
            command = [sys.executable, os.path.join(HERE, "compare.py"), "--rounds", "2",
                       "--llama-bench", program(folder, "llama-bench", theirs),
                       "--sluice", program(folder, "sluice", ours), "--model", model]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            self.assertIn("prompt: ratio 1.50", shown)
            self.assertIn("decode: ratio 1.50", shown)
            self.assertIn("60% of it", shown)


if __name__ == "__main__":
    unittest.main()
