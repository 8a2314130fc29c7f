#!/usr/bin/env python3
"""Draws tokens a second against memory from what tables.py measured, as an SVG that needs no font or script.

    tests/bench/engine/plot.py measured.json engine/memory.svg
"""

import argparse
import json

import compare

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 56
LINES = (("ours", "Sluice", "#0b6e4f"), ("llama.cpp", "llama.cpp, at its best", "#b3541e"))
GIB = 1 << 30


def points(measured, name):
    """(GiB of memory, tokens a second) of the capped cases with even gates, by memory; and what all in
    memory gives."""
    capped, resident = [], None
    for title, case in measured["cases"].items():
        speed = compare.median(compare.speeds(case.get(name, []), "decode"))
        if speed is None:
            continue
        if title == "resident":
            resident = speed
        elif title.startswith("cap "):
            capped.append((case["cap_bytes"] / GIB, speed))
    return sorted(capped), resident


def nice(most):
    """A round number of tokens a second above the largest, and the step of the axis."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if most / s <= 6)
    return step * (int(most / step) + 1), step


def svg(measured):
    """The picture."""
    lines = [(title, color, *points(measured, name)) for name, title, color in LINES]
    lines = [line for line in lines if line[2]]
    if not lines:
        raise SystemExit("error: no capped case was measured")
    caps = [cap for line in lines for cap, _ in line[2]]
    whole = max(caps) + 1
    top, step = nice(max(s for line in lines for s in [*(v for _, v in line[2]), line[3] or 0]))
    least = min(caps) - 0.5
    x = lambda gib: LEFT + (gib - least) / (whole - least) * (WIDTH - LEFT - RIGHT)
    y = lambda speed: HEIGHT - BOTTOM - speed / top * (HEIGHT - TOP - BOTTOM)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">Tokens written a second by memory of the process</text>',
    ]
    for i in range(int(top / step) + 1):
        at = y(i * step)
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{i * step:g}</text>')
    for cap in sorted(set(caps)):
        out.append(f'<text x="{x(cap):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{cap:g} GiB</text>')
    out.append(f'<text x="{x(whole):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="end">everything</text>')
    for i, (title, color, capped, resident) in enumerate(lines):
        path = capped + ([(whole, resident)] if resident else [])
        joined = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in path)
        out.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>')
        for a, b in path:
            out.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" fill="{color}"/>')
            out.append(f'<text x="{x(a):.1f}" y="{y(b) - 9:.1f}" text-anchor="middle" fill="{color}">{b:.1f}</text>')
        out.append(f'<text x="{LEFT + 8}" y="{TOP + 16 + 18 * i}" fill="{color}">{title}</text>')
    machine = str(measured.get("machine") or "").replace("&", "and").replace("<", "")
    out.append(f'<text x="{LEFT}" y="{HEIGHT - 12}" fill="#555555" font-size="11">{machine}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured")
    parser.add_argument("picture")
    args = parser.parse_args()
    with open(args.measured) as file:
        picture = svg(json.load(file))
    with open(args.picture, "w") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
