"""Pages of HTML that need no other file: pictures are inside."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 640, 180  # of a plot

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #333; max-width: 1000px; margin: 2em auto;
  padding: 0 1em }}
h1, h2 {{ font-weight: 600; color: #111 }}
table {{ border-collapse: collapse; margin: 0.6em 0 }}
td, th {{ padding: 0.2em 0.9em 0.2em 0; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: top; overflow-wrap: break-word }}
td:first-child {{ min-width: 12em }}
img {{ max-width: 100% }}
.doubt {{ background: #fff6df; padding: 0.5em 0.8em }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1.2em }}
figure {{ margin: 0 }} rect {{ fill: #6b8fb5 }} line {{ stroke: #b5433a; stroke-width: 1.5 }}
polyline {{ fill: none; stroke-width: 1.2 }}
.curves {{ width: 100%; border: 1px solid #e4e4e4 }}
figcaption {{ display: flex; justify-content: space-between; font-size: 12px; gap: 1em }}
</style>
<body>
<h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page; parts are HTML, empty ones are left out."""
    return _PAGE.format(title=escape(title), body="\n".join(part for part in parts if part))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; without a head where that is empty."""
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def image(picture: Image.Image, text: str) -> str:
    """A picture inside the page, with a text for those who cannot see it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{content}">'


def line_plot(title: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Curves over steps as SVG, the vertical axis logarithmic where all values allow it.

    Args:
        title: what is plotted.
        curves: name -> x and y.
    """
    if not curves:
        return ""
    values = np.concatenate([np.asarray(y, float) for _, y in curves.values()])
    logarithmic = bool((values > 0).all())
    scale = np.log10 if logarithmic else np.asarray
    low, high = float(scale(values).min()), float(scale(values).max())
    last = max(float(max(x)) for x, _ in curves.values())
    lines, names = [], []
    for i, (name, (x, y)) in enumerate(curves.items()):
        hue = round(360 * i / len(curves))
        height = (scale(np.asarray(y, float)) - low) / ((high - low) or 1)
        points = " ".join(
            f"{_WIDTH * a / last:.1f},{_HEIGHT * (1 - b):.1f}"
            for a, b in zip(x, height, strict=True)
        )
        lines.append(f'<polyline points="{points}" stroke="hsl({hue},60%,45%)"/>')
        names.append(f'<span style="color:hsl({hue},60%,35%)">{escape(name)}</span>')
    ends = [10**value if logarithmic else value for value in (low, high)]
    return (
        f"<figure><figcaption><b>{escape(title)}</b><span>{ends[0]:.3g} to {ends[1]:.3g}"
        f"{', logarithmic' if logarithmic else ''}; {last:g} steps</span></figcaption>"
        f'<svg viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}" class="curves">{"".join(lines)}</svg>'
        f"<p>{' · '.join(names)}</p></figure>"
    )
