"""The plot: bars of what matters most, one panel a figure, as plain SVG."""

from __future__ import annotations

from .results import Results

PANELS = [
    ("paced_cpu", "CPU-s per million tokens, paced"),
    ("burst_cpu", "CPU-s per million tokens, burst"),
    ("invoke_cpu_us", "CPU-µs per Invoke, saturated"),
    ("first_p50_us", "first token, p50 µs"),
]
SUBJECTS = ["bridge", "limit", "naive", "envoy", "aiohttp", "node"]
WIDTH, LEFT, BAR, GAP, TITLE = 360, 64, 18, 6, 30
ROOM = WIDTH - LEFT - 64
PANEL = TITLE + len(SUBJECTS) * (BAR + GAP) + 14


def plot(results: Results) -> str:
    """Four panels, two by two; shorter is better in each."""
    columns, rows = 2, (len(PANELS) + 1) // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDTH} {rows * PANEL}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        '<title>The bridge, its limit and its peers; shorter is better</title>',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, (figure, title) in enumerate(PANELS):
        x, y = number % columns * WIDTH, number // columns * PANEL
        parts.append(f'<g transform="translate({x} {y})">{panel(results, figure, title)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def panel(results: Results, figure: str, title: str) -> str:
    """The bars of one figure."""
    values = {subject: results.median(subject, figure) for subject in SUBJECTS}
    greatest = max((value for value in values.values() if value), default=1)
    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>']
    y = TITLE
    for subject, value in values.items():
        parts.append(f'<text x="{LEFT - 6}" y="{y + 13}" text-anchor="end">{subject}</text>')
        if value is not None:
            long = max(1.0, value / greatest * ROOM)
            color = "#1a7f5a" if subject == "bridge" else "#b5bcc4"
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR}" fill="{color}"/>')
            parts.append(f'<text x="{LEFT + long + 5:.1f}" y="{y + 13}">{value:,.3g}</text>'
                         if value < 1000 else f'<text x="{LEFT + long + 5:.1f}" y="{y + 13}">{value:,.0f}</text>')
        y += BAR + GAP
    return "".join(parts)
