#!/usr/bin/env python3
"""Compares the engine with llama.cpp on one GGUF file: the same run, taking turns, medians, ratios.

    tests/bench/engine/compare.py --llama-bench PATH --sluice target/release/sluice --model FILE.gguf
        [--pack DIR] [--cap 3GiB] [--rounds 3] [--prompt 128] [--decode 16] [--threads 2] [--json]

`tables.py` beside it measures everything that engine/README.md shows.

Fair to the other: without a cap llama.cpp runs with its defaults, after the file was read once. With a
cap it runs with `--repack 0` (repacked weights are anonymous memory and would not fit) and, where this
script may make loop devices, behind a read-ahead of 128 KiB: a large read-ahead makes it several times
slower. Before each capped run the file's pages are dropped, since a group is not charged for pages that
others brought in. Ours gets the cap as `--memory`, and the same group around it.

Only ratios mean something; speeds are printed so that one can see how they scatter. The share of the
processor that others took is printed beside each run: above a tenth a run is not worth much; the other
program's threads wait for each other by spinning, and lose most by company. The disk is measured before
each round, with reads of 4 MiB around the page cache, and by the engine's own test at start; what the
machine did not allow (a loop device, a control group) is named in the result as `missing`.
"""

import argparse
import contextlib
import json
import mmap
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
READ_AHEAD_KIB = 128
# Loop devices are whole sectors, bytes.
SECTOR = 512


def size(text):
    """Bytes of `3GiB`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB|)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 3GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def median(values):
    """The median, or None of nothing."""
    return statistics.median(values) if values else None


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


def disk_rate(path, seconds=0.6, block=4 << 20):
    """Bytes a second of random reads around the page cache, one at a time; None where that is impossible."""
    blocks = os.path.getsize(path) // block
    if blocks == 0 or not hasattr(os, "O_DIRECT"):
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        with mmap.mmap(-1, block) as page:
            started, read = time.monotonic(), 0
            while (took := time.monotonic() - started) < seconds:
                read += os.preadv(file, [page], random.randrange(blocks) * block)
            return read / took
    except OSError:
        return None
    finally:
        os.close(file)


def files_of(path):
    """The file, or the files of a folder."""
    if os.path.isdir(path):
        return [os.path.join(path, name) for name in os.listdir(path)]
    return [path]


@contextlib.contextmanager
def groups(cap, disk, path):
    """Control groups that limit memory, bytes, and reads of a file's disk, bytes a second; yields their
    lists of processes."""
    version_1 = os.path.isdir("/sys/fs/cgroup/memory")
    limits = []
    if cap:
        limits.append(("memory", "memory.limit_in_bytes" if version_1 else "memory.max", str(cap)))
    if disk:
        name, rate = ("blkio.throttle.read_bps_device", "") if version_1 else ("io.max", "rbps=")
        limits.append(("blkio", name, f"{disk_of(path)} {rate}{disk}"))
    with contextlib.ExitStack() as made:
        yield [made.enter_context(group(*limit, version_1)) for limit in limits]


@contextlib.contextmanager
def group(controller, name, limit, version_1):
    """A control group with one limit; yields its list of processes."""
    root = f"/sys/fs/cgroup/{controller}" if version_1 else "/sys/fs/cgroup"
    try:
        folder = tempfile.mkdtemp(prefix="sluice-bench-", dir=root)
    except OSError as error:
        sys.exit(f"error: no control group could be made in {root} ({error.strerror}); limits need root "
                 f"and a writable {controller} controller")
    try:
        with open(os.path.join(folder, name), "w") as file:
            file.write(limit)
        yield os.path.join(folder, "cgroup.procs")
    finally:
        remove_group(folder)


def disk_of(path):
    """The numbers of the disk, not of its partition, that a file lies on: `254:0`."""
    device = os.stat(path).st_dev
    node = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if os.path.exists(os.path.join(node, "partition")):
        node = os.path.dirname(node)
    with open(os.path.join(node, "dev")) as file:
        return file.read().strip()


def remove_group(folder):
    """Removes a control group; its last process may still be on its way out."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
            return
        time.sleep(0.1)
    print(f"note: {folder} could not be removed", file=sys.stderr)


@contextlib.contextmanager
def small_read_ahead(path):
    """The file as a read-only loop device with a small read-ahead; the file itself where that fails."""
    if os.path.getsize(path) % SECTOR:
        sys.exit(f"error: {path} ends within a sector, and a loop device would cut its end off; "
                 f"hint: truncate -s %{SECTOR} {path} adds zeros that no reader looks at")
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", "--read-only", "--direct-io=on", path],
            capture_output=True, text=True, check=False,
        )
        problem = made.stderr.strip() if made.returncode != 0 else None
    except OSError as error:
        problem = str(error)
    if problem is not None:
        print(f"note: no loop device ({problem}); the file's own read-ahead flatters us", file=sys.stderr)
        yield path
        return
    device = made.stdout.strip()
    try:
        name = os.path.basename(device)
        with open(f"/sys/block/{name}/queue/read_ahead_kb", "w") as file:
            file.write(str(READ_AHEAD_KIB))
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


def run(command, procs):
    """Runs a program, in the groups that there are. Returns its output and what others took meanwhile."""

    def enter():
        for name in procs:
            with open(name, "w") as file:
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
    if args.llama_batch:
        command += ["-b", str(args.llama_batch), "-ub", str(args.llama_batch)]
    text, others = run(command, procs)
    speeds = {"prompt": None, "decode": None, "others": others}
    for test in json.loads(text):
        speeds["prompt" if test["n_prompt"] else "decode"] = test["avg_ts"]
    return speeds


def our_run(args, procs):
    """Prompt and decode speed of the engine, and what it read for that."""
    command = [args.sluice, "bench", "engine", "--json", "--model", args.pack or args.model,
               "--threads", str(args.threads), "--runs", "1",
               "--prompt-tokens", str(args.prompt), "--decode-tokens", str(max(1, args.decode)),
               "--context", str(max(512, args.prompt + args.decode + 8)),
               "--streams", str(args.streams)]
    if args.cap:
        command += ["--memory", str(args.cap)]
    text, others = run(command, procs)
    report = json.loads(text)
    return {"prompt": report["prompt"]["median"], "decode": report["decode"]["median"],
            "others": others, "report": report}


def measure(args):
    """All rounds, the two taking turns. Returns one case: what was asked, every run, the ratios."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    ours, theirs, disk, missing = [], [], [], []
    with small_read_ahead(args.model) if args.cap else contextlib.nullcontext(args.model) as path:
        if args.cap and path == args.model:
            missing.append(f"llama.cpp behind a read-ahead of {READ_AHEAD_KIB} KiB: no loop device")
        if not args.cap:
            with open(args.model, "rb") as file:
                while file.read(1 << 24):
                    pass
        turns = [(ours, lambda procs: our_run(args, procs))]
        if args.llama_bench:
            turns.insert(0, (theirs, lambda procs: their_run(args, path, procs)))
        for _ in range(args.rounds):
            disk.append(disk_rate(args.model))
            for runs, one in turns:
                if args.cap:
                    # The loop device has pages of its own.
                    for name in {path, *files_of(args.model), *(files_of(args.pack) if args.pack else [])}:
                        drop_pages(name)
                with groups(args.cap, args.disk, args.model) as procs:
                    runs.append(one(procs))
    case = {"started": started, "model": os.path.basename(args.model), "cap_bytes": args.cap,
            "disk_limit_bytes_per_second": args.disk,
            "prompt_tokens": args.prompt, "decode_tokens": args.decode, "streams": args.streams,
            "threads": args.threads, "missing": missing, "disk_bytes_per_second": disk,
            "ours": ours, "llama.cpp": theirs}
    for kind in ("prompt", "decode"):
        case[f"{kind}_ratio"] = ratio(speeds(ours, kind), speeds(theirs, kind))
    limit = ceiling(ours[-1]["report"], args.disk)
    case["disk_ceiling"] = limit
    case["share_of_disk_ceiling"] = ours[-1]["decode"] / limit if limit else None
    return case


def speeds(runs, kind):
    """The speeds of one kind that were measured."""
    return [run[kind] for run in runs if run[kind]]


def ceiling(report, limit):
    """Decode speed that the disk allows for what was read, by the engine's own test of it. The test is
    short, and a limited disk gives more for a moment: then the limit counts."""
    rate, per_token = report["read_bytes_per_second"], report["decode"]["read_bytes_per_token"]
    return min(rate, limit or rate) / per_token if rate and per_token else None


def options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", help="without it only the engine is measured")
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--model", required=True, help="the GGUF file that both read")
    parser.add_argument("--pack", help="a pack of it, which the engine reads instead")
    parser.add_argument("--cap", type=size, help="memory limit of both, such as 3GiB; needs root")
    parser.add_argument("--disk", type=size, help="most that the file's disk gives in a second, such as "
                        "1GiB, to see a slower one; needs root; not where llama.cpp reads a loop device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--streams", type=int, default=1, help="replies that the engine decodes together")
    parser.add_argument("--llama-batch", type=int, help="llama.cpp's batch; default: its own, 512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser


def show(case):
    """A case in lines for a person."""
    print(f"{case['started']}, {case['model']}, cap {case['cap_bytes'] or 'none'}, "
          f"{len(case['ours'])} rounds")
    for kind in ("prompt", "decode"):
        lists = [", ".join(f"{s:.2f}" for s in speeds(case[name], kind)) or "-"
                 for name in ("ours", "llama.cpp")]
        value = case[f"{kind}_ratio"]
        shown = "-" if value is None else f"{value:.2f}"
        print(f"{kind}: ratio {shown}   ours {lists[0]}   llama.cpp {lists[1]} tokens/s")
    for name in ("ours", "llama.cpp"):
        print(f"others beside {name}: " + ", ".join(f"{run['others']:.0%}" for run in case[name]))
    rates = ", ".join("-" if rate is None else f"{rate / (1 << 20):.0f}"
                      for rate in case["disk_bytes_per_second"])
    print(f"disk, one read of 4 MiB at a time: {rates} MiB/s")
    if limit := case["disk_ceiling"]:
        rate = limit * case["ours"][-1]["report"]["decode"]["read_bytes_per_token"] / (1 << 20)
        print(f"disk {rate:.0f} MiB/s allows {limit:.2f} tokens/s for what was read: "
              f"{case['share_of_disk_ceiling']:.0%} of it")
    for what in case["missing"]:
        print(f"missing: {what}")


def main():
    args = options().parse_args()
    case = measure(args)
    if args.json:
        json.dump(case, sys.stdout, indent=2)
    else:
        show(case)


if __name__ == "__main__":
    main()
