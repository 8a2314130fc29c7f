"""What the tables say of the targets, and the picture of them."""

import unittest
import xml.etree.ElementTree

import plot
import tables

GIB = 1 << 30


def case(cap, ours, theirs, **more):
    run = lambda speed: {"decode": speed, "prompt": 10 * speed, "others": 0.0}
    return {"cap_bytes": cap, "ours": [run(ours)], "llama.cpp": [run(theirs)],
            "decode_ratio": ours / theirs, "prompt_ratio": ours / theirs, **more}


MEASURED = {
    "machine": "a & b",
    "cases": {
        "resident": case(None, 12.0, 10.0),
        "cap 2GiB": case(2 * GIB, 4.0, 4.0, disk_ceiling=4.0),
        "cap 3GiB": case(3 * GIB, 8.0, 5.0, disk_ceiling=20.0),
        "slow disk, cap 3GiB": case(3 * GIB, 5.0, 5.0, disk_ceiling=6.0),
        "long prompt, resident": case(None, 10.0, 8.0),
        "long prompt, cap 3GiB": case(3 * GIB, 9.0, 8.0),
        "cap 1GiB": {"failed": "no room"},
    },
}


class Tables(unittest.TestCase):
    def test_each_target_is_met_or_missed_or_not_measured(self):
        lines = list(tables.summary(MEASURED["cases"]))
        words = [line.split()[-1] for line in lines]
        self.assertEqual(words, ["met", "met", "met", "MISSED", "met", "MISSED", "met", "measured", "MISSED", "met"])
        self.assertIn("0.67", lines[3], "of what memory computes, since the disk allows more")
        self.assertTrue(all("not measured" in line for line in tables.summary({})))

    def test_the_picture_holds_every_point_that_was_measured(self):
        picture = plot.svg(MEASURED)
        root = xml.etree.ElementTree.fromstring(picture)
        circles = root.findall("{http://www.w3.org/2000/svg}circle")
        self.assertEqual(len(circles), 2 * 3)
        self.assertIn("a and b", picture)
        with self.assertRaises(SystemExit):
            plot.svg({"cases": {}})


if __name__ == "__main__":
    unittest.main()
