"""The page under the API's application: where its files lie, and who may see it."""

import os
import shutil
from pathlib import Path
from typing import Any

from colorize_jax.studio.access import Access
from colorize_jax.studio.service import Service

FILES, PRESETS = ".page", ".presets"


def mount_page(app: Any, service: Service, access: Access) -> Any:
    """Serve the page at "/"; where there are keys, a name and its key open it.

    Args:
        app: of `create_app`.
        service: that colours.
        access: the same rules as the application's.

    Returns:
        The application.
    """
    files = service.journal.folder / FILES
    shutil.rmtree(files, ignore_errors=True)  # copies and uploads of an earlier server
    # Gradio reads both when it is imported or called; nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(files)
    import gradio as gr

    from colorize_jax.studio.page.layout import CSS, Page
    from colorize_jax.studio.page.presets import Presets

    presets = Presets(service.journal.folder / PRESETS, service.pipeline.defaults)
    page = Page(service, presets, Path(files))
    # Its own fonts would be fetched from another machine.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        auth=None if access.keys is None else access.knows,
        blocked_paths=[str(service.journal.folder / PRESETS)],
        max_file_size=access.num_bytes,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )
