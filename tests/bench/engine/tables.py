#!/usr/bin/env python3
"""Measures everything that engine/README.md shows of speed, into one JSON file.

    tests/bench/engine/tables.py --sluice target/release/sluice --llama-bench PATH --model FILE.gguf
        [--skewed FILE.gguf] [--out measured.json] [--only NAME ...] [--quick]

FILE.gguf is what `sluice model synth FILE.gguf --like qwen3-30b-a3b --layers 12` writes, the skewed one
the same with `--skew 1`. Needs about a quarter of an hour of a machine that does nothing else, root and a
memory controller. Cases that were measured stay in the file when others fail; `plot.py` draws it.
"""

import argparse
import json
import os
import sys
import time

import compare

GIB = 1 << 30


def cases(args):
    """Name, and what differs from the flags of compare.py."""
    few = 1 if args.quick else 3
    yield "resident", {"rounds": few, "decode": 32}
    for name, cap in (("3GiB", 3 * GIB), ("2GiB", 2 * GIB)):
        yield f"cap {name}", {"cap": cap, "rounds": few}
    yield "long prompt, resident", {"prompt": 2000, "decode": 0, "rounds": 1}
    yield "long prompt, cap 3GiB", {"cap": 3 * GIB, "prompt": 2000, "decode": 0, "rounds": 1}
    if args.skewed:
        for name, cap in (("3GiB", 3 * GIB), ("2GiB", 2 * GIB)):
            yield f"skewed, cap {name}", {"cap": cap, "rounds": 1, "model": args.skewed}
    for name, cap in (("4GiB", 4 * GIB), ("1.5GiB", 3 * GIB // 2)):
        yield f"cap {name}", {"cap": cap, "rounds": 1}
    for name, cap in (("3GiB", 3 * GIB), ("2GiB", 2 * GIB)):
        change = {"cap": cap, "disk": GIB, "rounds": few, "decode": 96, "llama_bench": None}
        yield f"slow disk, cap {name}", change
    for streams in (1, 2, 4):
        change = {"cap": 3 * GIB, "rounds": 1, "streams": streams, "prompt": 16, "llama_bench": None}
        yield f"{streams} streams, cap 3GiB", change


def run(args):
    """All cases; the file is written after each."""
    base = compare.options().parse_args(["--sluice", args.sluice, "--model", args.model])
    base.llama_bench, base.threads, base.pack = args.llama_bench, args.threads, args.pack
    result = {"machine": None, "cases": {}}
    if os.path.exists(args.out):
        with open(args.out) as file:
            result = json.load(file)
    for name, change in cases(args):
        if args.only and name not in args.only:
            continue
        flags = argparse.Namespace(**{**vars(base), **change})
        if change.get("model"):
            flags.pack = None
        started = time.monotonic()
        print(f"\n{name}", flush=True)
        try:
            case = compare.measure(flags)
        except SystemExit as failure:
            print(f"{name}: {failure}", file=sys.stderr)
            result["cases"].setdefault(name, {})["failed"] = str(failure)
        else:
            compare.show(case)
            result["cases"][name] = case
            result["machine"] = case["ours"][-1]["report"].get("machine")
        print(f"took {time.monotonic() - started:.0f} s", flush=True)
        with open(args.out, "w") as file:
            json.dump(result, file, indent=1)
    print()
    for line in summary(result["cases"]):
        print(line)


def decode(case, name):
    """Median decode speed of `ours` or `llama.cpp` in a case."""
    return compare.median(compare.speeds(case.get(name, []), "decode"))


def prompt(case, name):
    """Median prompt speed."""
    return compare.median(compare.speeds(case.get(name, []), "prompt"))


def summary(measured):
    """The targets, each with what was measured."""
    def ratio(of, a, b):
        return None if not (a and b) else of(a, b)

    def told(what, target, value):
        if value is None:
            return f"{what:<58} at least {target:.2f}: not measured"
        return f"{what:<58} at least {target:.2f}: {value:.2f} {'met' if value >= target else 'MISSED'}"

    divide = lambda a, b: a / b
    get = lambda name: measured.get(name, {})
    resident = get("resident")
    yield told("resident decode against llama.cpp", 1.0, resident.get("decode_ratio"))
    yield told("resident prompt against llama.cpp", 0.8, resident.get("prompt_ratio"))
    for cap in ("3GiB", "2GiB"):
        case = get(f"cap {cap}")
        yield told(f"decode under {cap} against llama.cpp", 1.5, case.get("decode_ratio"))
        yield told("  share of what the disk allows or memory computes", 0.8, share(case, resident))
        slow = get(f"slow disk, cap {cap}")
        yield told("  the same with a disk of 1 GiB/s", 0.8, share(slow, resident))
    long, capped = get("long prompt, resident"), get("long prompt, cap 3GiB")
    yield told("2,000-token prompt under 3GiB against llama.cpp", 1.5, capped.get("prompt_ratio"))
    own = ratio(divide, prompt(capped, "ours"), prompt(long, "ours"))
    yield told("  against our own prompt with everything in memory", 0.85, own)


def share(case, resident):
    """Decode speed by what is possible: the disk for what was read, or computing, whichever is slower."""
    ours, limit, computing = decode(case, "ours"), case.get("disk_ceiling"), decode(resident, "ours")
    possible = [value for value in (limit, computing) if value]
    return ours / min(possible) if ours and possible else None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--llama-bench", help="without it only the engine is measured")
    parser.add_argument("--model", required=True)
    parser.add_argument("--pack", help="a pack of the model, which the engine reads instead")
    parser.add_argument("--skewed", help="the same with uneven gates")
    parser.add_argument("--out", default="measured.json")
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of each")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
