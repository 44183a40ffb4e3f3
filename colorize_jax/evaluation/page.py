"""Pages of HTML that need no other file: pictures are inside."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #333; max-width: 1000px; margin: 2em auto;
  padding: 0 1em }}
h1, h2 {{ font-weight: 600; color: #111 }}
table {{ border-collapse: collapse; margin: 0.6em 0 }}
td, th {{ padding: 0.2em 0.9em 0.2em 0; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ min-width: 12em }}
img {{ max-width: 100% }}
.doubt {{ background: #fff6df; padding: 0.5em 0.8em }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1.2em }}
figure {{ margin: 0 }} rect {{ fill: #6b8fb5 }} line {{ stroke: #b5433a; stroke-width: 1.5 }}
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
