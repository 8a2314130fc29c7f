#!/usr/bin/env python3
"""Compares the engine with llama.cpp on one GGUF file: the same run, taking turns, medians, ratios.

    tests/bench/engine/compare.py --llama-bench PATH --sluice target/release/sluice --model FILE.gguf
        [--pack DIR] [--cap 3GiB] [--rounds 3] [--prompt 128] [--decode 16] [--threads 2] [--json]

Fair to the other: without a cap llama.cpp runs with its defaults, after the file was read once. With a
cap it runs with `--repack 0` (repacked weights are anonymous memory and would not fit) and, where this
script may make loop devices, behind a read-ahead of 128 KiB: a large read-ahead makes it several times
slower. Before each capped run the file's pages are dropped, since a group is not charged for pages that
others brought in. Ours gets the cap as `--memory`, and the same group around it.

Only ratios mean something; speeds are printed so that one can see how they scatter. The share of the
processor that others took is printed beside each run: above a tenth a run is not worth much. The disk is
what the engine's own test at start measured.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
READ_AHEAD_KIB = 128


def size(text):
    """Bytes of `3GiB`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB|)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 3GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def ratio(ours, theirs):
    """Our median over theirs, or None if one is missing."""
    if not ours or not theirs or statistics.median(theirs) == 0:
        return None
    return statistics.median(ours) / statistics.median(theirs)


def busy():
    """Ticks of the machine that were not idle, and all ticks."""
    with open("/proc/stat") as file:
        columns = [int(n) for n in file.readline().split()[1:9]]
    return sum(columns[i] for i in (0, 1, 2, 5, 6)), sum(columns)


def drop_pages(path):
    """Drops a file's clean pages from the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_of(path):
    """The file, or the files of a folder."""
    if os.path.isdir(path):
        return [os.path.join(path, name) for name in os.listdir(path)]
    return [path]


@contextlib.contextmanager
def group(cap):
    """A control group with a memory limit; yields its list of processes, or None without a cap."""
    if cap is None:
        yield None
        return
    version_1 = os.path.isdir("/sys/fs/cgroup/memory")
    root = "/sys/fs/cgroup/memory" if version_1 else "/sys/fs/cgroup"
    folder = tempfile.mkdtemp(prefix="sluice-bench-", dir=root)
    try:
        limit = "memory.limit_in_bytes" if version_1 else "memory.max"
        with open(os.path.join(folder, limit), "w") as file:
            file.write(str(cap))
        yield os.path.join(folder, "cgroup.procs")
    finally:
        os.rmdir(folder)


@contextlib.contextmanager
def small_read_ahead(path):
    """The file as a read-only loop device with a small read-ahead; the file itself where that fails."""
    made = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", "--direct-io=on", path],
        capture_output=True, text=True, check=False,
    )
    device = made.stdout.strip()
    if made.returncode != 0:
        print(f"note: no loop device ({made.stderr.strip()}); the file's own read-ahead flatters us",
              file=sys.stderr)
        yield path
        return
    try:
        name = os.path.basename(device)
        with open(f"/sys/block/{name}/queue/read_ahead_kb", "w") as file:
            file.write(str(READ_AHEAD_KIB))
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


def run(command, procs):
    """Runs a program, in a group if there is one. Returns its output and what others took meanwhile."""

    def enter():
        if procs:
            with open(procs, "w") as file:
                file.write(str(os.getpid()))

    before, own = busy(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
    after, own_after = busy(), os.times()
    if done.returncode != 0:
        sys.exit(f"error: {command[0]} ended with {done.returncode}: {done.stderr[-800:]}")
    hz = os.sysconf("SC_CLK_TCK")
    mine = (own_after.children_user - own.children_user
            + own_after.children_system - own.children_system) * hz
    others = max(0.0, after[0] - before[0] - mine) / max(1, after[1] - before[1])
    return done.stdout, others


def their_run(args, path, procs):
    """Prompt and decode speed of llama.cpp."""
    command = [args.llama_bench, "-m", path, "-t", str(args.threads), "-r", "1", "-o", "json",
               "-p", str(args.prompt), "-n", str(args.decode)]
    if args.cap:
        command += ["--repack", "0"]
    text, others = run(command, procs)
    speeds = {"prompt": None, "decode": None, "others": others}
    for test in json.loads(text):
        speeds["prompt" if test["n_prompt"] else "decode"] = test["avg_ts"]
    return speeds


def our_run(args, procs):
    """Prompt and decode speed of the engine, and what it read for that."""
    command = [args.sluice, "bench", "engine", "--json", "--model", args.pack or args.model,
               "--threads", str(args.threads), "--runs", "1",
               "--prompt-tokens", str(args.prompt), "--decode-tokens", str(args.decode)]
    if args.cap:
        command += ["--memory", str(args.cap)]
    text, others = run(command, procs)
    report = json.loads(text)
    return {"prompt": report["prompt"]["median"], "decode": report["decode"]["median"],
            "others": others, "report": report}


def measure(args):
    """All rounds, the two taking turns."""
    ours, theirs = [], []
    with small_read_ahead(args.model) if args.cap else contextlib.nullcontext(args.model) as path:
        if not args.cap:
            with open(args.model, "rb") as file:
                while file.read(1 << 24):
                    pass
        for _ in range(args.rounds):
            for runs, one in ((theirs, lambda procs: their_run(args, path, procs)),
                              (ours, lambda procs: our_run(args, procs))):
                if args.cap:
                    files = files_of(args.model) + (files_of(args.pack) if args.pack else [])
                    for name in files:
                        drop_pages(name)
                with group(args.cap) as procs:
                    runs.append(one(procs))
    return ours, theirs


def ceiling(report):
    """Decode speed that the disk allows for what was read, by the engine's own test of it."""
    rate, per_token = report["read_bytes_per_second"], report["decode"]["read_bytes_per_token"]
    return rate / per_token if rate and per_token else None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--model", required=True, help="the GGUF file that both read")
    parser.add_argument("--pack", help="a pack of it, which the engine reads instead")
    parser.add_argument("--cap", type=size, help="memory limit of both, such as 3GiB; needs root")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    ours, theirs = measure(args)
    speeds = lambda runs, kind: [run[kind] for run in runs if run[kind]]
    result = {"started": started, "cap_bytes": args.cap, "ours": ours, "llama.cpp": theirs}
    for kind in ("prompt", "decode"):
        result[f"{kind}_ratio"] = ratio(speeds(ours, kind), speeds(theirs, kind))
    if args.json:
        json.dump(result, sys.stdout, indent=2)
        return
    print(f"{started}, cap {args.cap or 'none'}, {args.rounds} rounds")
    for kind in ("prompt", "decode"):
        lists = [", ".join(f"{s:.2f}" for s in speeds(runs, kind)) for runs in (ours, theirs)]
        value = result[f"{kind}_ratio"]
        shown = "-" if value is None else f"{value:.2f}"
        print(f"{kind}: ratio {shown}   ours {lists[0]}   llama.cpp {lists[1]} tokens/s")
    for name, runs in (("ours", ours), ("llama.cpp", theirs)):
        print(f"others beside {name}: " + ", ".join(f"{run['others']:.0%}" for run in runs))
    last = ours[-1]["report"]
    if limit := ceiling(last):
        rate = last["read_bytes_per_second"] / (1 << 20)
        share = last["decode"]["median"] / limit
        print(f"disk {rate:.0f} MiB/s allows {limit:.2f} tokens/s for what was read: {share:.0%} of it")


if __name__ == "__main__":
    main()
